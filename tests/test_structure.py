"""Imports point one way, and public names exist."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llava_rad"

# The ground floor, which knows only itself.
GROUND = {
    "boxes",
    "bundled",
    "errors",
    "appearance",
    "caches",
    "config",
    "devices",
    "ending",
    "extras",
    "file_keys",
    "files",
    "grounded_text",
    "hub",
    "locks",
    "names",
    "observations",
    "outputs",
    "processes",
    "programs",
    "quiet",
    "readers",
    "safetensors_writer",
    "saved_heads",
    "sentences",
    "started_processes",
    "statistics",
    "tensor_files",
    "tensor_stream",
    "views",
    "weight_files",
    "wording",
}
# Every other part, and what it may import beside the ground floor.
ALLOWED = {
    **{name: set() for name in GROUND},
    "images": set(),
    "encoders": {"images"},
    "kernels": set(),
    "runs": set(),
    "data": {"images", "encoders"},
    "features": {"images", "encoders", "runs"},
    "dinov2": {"images", "encoders", "data", "kernels", "runs"},
    "outlines": {"images", "encoders"},
    "model": {"images", "encoders", "kernels", "outlines"},
    "metrics": {"data"},
    "probing": {"data", "encoders", "features", "images", "outlines"},
    "encoding": {"images", "encoders"},
    "reports": {"images", "data", "model"},
    "hf": {"images", "encoders", "model"},
    "interchange": {"images", "encoders", "hf", "model"},
}
# These stand on top and may import everything.
TOP = {
    "cli",
    "comparisons",
    "doctor",
    "evaluation",
    "head_maps",
    "inventory",
    "observation_training",
    "report_training",
    "serve",
    "__init__",
    "__main__",
}


def parts():
    return sorted(
        {
            p.stem if p.is_file() else p.name
            for p in PACKAGE.iterdir()
            if p.suffix == ".py" or (p / "__init__.py").is_file()
        }
    )


def imported(part):
    place = PACKAGE / part
    files = place.rglob("*.py") if place.is_dir() else [PACKAGE / f"{part}.py"]
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute"
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                pieces = name.split(".")
                if pieces[0] == "llava_rad" and len(pieces) > 1:
                    found.setdefault(pieces[1], set()).add(str(file.relative_to(PACKAGE)))
    return found


@pytest.mark.parametrize("part", parts())
def test_imports_point_one_way(part):
    if part in TOP:
        return
    assert part in ALLOWED, f"llava_rad/{part} is new: say in this test what it may import"
    for other, files in imported(part).items():
        assert other == part or other in GROUND | ALLOWED[part], f"{files} must not import {other}"


def test_the_programs_are_imported_by_nobody():
    for part in parts():
        files = (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else []
        for file in files:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    assert node.module.split(".")[0] not in {"training", "eval"}, file


def test_the_package_alone_imports_nothing_heavy():
    heavy = ("torch", "transformers", "numpy", "huggingface_hub")
    code = f"import sys, llava_rad; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_there():
    import llava_rad

    for name in llava_rad.__all__:
        assert getattr(llava_rad, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llava_rad.nothing


@pytest.mark.parametrize("part", [p for p in parts() if (PACKAGE / p).is_dir() and p != "mini"])
def test_every_package_says_what_lives_in_it(part):
    module = importlib.import_module(f"llava_rad.{part}")
    assert module.__doc__ and len(module.__doc__) > 40
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name)
