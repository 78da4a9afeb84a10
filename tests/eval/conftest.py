"""A tiny model on disk, and a manifest of tiny pictures, for the programs that generate."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_models import build, byte_level_tokenizer, tiny_llm
from PIL import Image
from typer.testing import CliRunner

from llava_rad.data import Study, StudyImage, save_manifest

EVAL = Path(__file__).parents[2] / "eval"
FINDINGS = ["The lungs are clear.", "Small left effusion.", "Large heart.", "No pneumothorax."]


@pytest.fixture(scope="session")
def run_program():
    """Runs a program of eval/ in this process."""

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(f"eval_{name}", EVAL / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return CliRunner().invoke(module.app, [*map(str, arguments)])

    return run


@pytest.fixture(scope="session")
def save_tiny_model(tmp_path_factory):
    """Saves a model whose adapter's last layer is multiplied by a number."""

    def save(scale):
        folder = tmp_path_factory.mktemp("model")
        tokenizer = byte_level_tokenizer()
        llm = tiny_llm("llama", len(tokenizer))
        llm.save_pretrained(folder / "llm")
        model = build(tokenizer, llm=llm, llm_id=str(folder / "llm"), name="tiny-model")
        for parameter in model.adapter.layers[-1].parameters():
            parameter.data *= scale
        return model.save_pretrained(folder / "model")

    return save


@pytest.fixture(scope="session")
def seeing_model(save_tiny_model):
    """Writes another text for nearly every picture."""
    return save_tiny_model(20.0)


@pytest.fixture(scope="session")
def blind_model(save_tiny_model):
    """Its adapter gives zeros for every picture."""
    return save_tiny_model(0.0)


@pytest.fixture
def studies(tmp_path):
    """Twelve test studies of eight patients, one without findings; two training studies."""
    generator = np.random.default_rng(0)
    made = []
    for i in range(14):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (60, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        made.append(
            Study(
                study_id=f"s{i}",
                patient_id=f"p{i % 8}" if i < 12 else f"t{i}",
                split="test" if i < 12 else "train",
                images=(StudyImage(str(path), "frontal", "PA"),),
                indication=["Cough.", None, "Fall."][i % 3],
                findings=None if i == 5 else FINDINGS[i % 4],
                labels={"Edema": 1.0, "Mass": 1.0, "Fracture": None} if i % 2 else {},
                sex="FM"[i % 8 % 2],
                age=20.0 + i % 8,
            )
        )
    return made


@pytest.fixture
def manifest(studies, tmp_path):
    path = tmp_path / "manifest.jsonl"
    save_manifest(studies, path)
    return path
