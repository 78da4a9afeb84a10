"""What is installed beside the core, and what works without it."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers import core_install
from helpers.tiny_models import build, byte_level_tokenizer, save_tiny_model, tiny_llm
from PIL import Image

import llava_rad
from llava_rad.data import Study, StudyImage, save_manifest
from llava_rad.ending import program_ending
from llava_rad.extras import EXTRAS, MissingExtraError, command, missing_extra, require
from llava_rad.model import LoraSettings

ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def modules(requirements):
    """Names to import, of requirements or names of distributions."""
    names = {r.split(">")[0].split("[")[0] for r in requirements} - {"llava-rad"}
    return {core_install.MODULES.get(name, name) for name in names}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_what_is_said_of_it(extra):
    assert modules(PROJECT["optional-dependencies"][extra]) == set(EXTRAS[extra])


def test_the_core_is_without_them():
    heavy = {module for names in EXTRAS.values() for module in names}
    assert not heavy & modules(PROJECT["dependencies"])


def without(monkeypatch, *hidden):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )


def test_what_is_missing_is_named_with_its_command(monkeypatch):
    require("train", "training")
    without(monkeypatch, "peft", "tensorboard")
    with pytest.raises(ImportError) as caught:
        require("train", "training")
    text = str(caught.value)
    assert "training needs packages that are not installed (peft, tensorboard)" in text
    assert "pip install 'llava-rad[train]'" in text and "\n" not in text


def test_a_failed_import_becomes_one_line_with_the_command(capsys):
    with pytest.raises(SystemExit) as end, program_ending():
        raise ModuleNotFoundError("No module named 'sacrebleu'", name="sacrebleu.metrics")
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "error: the package sacrebleu is not installed. Run: pip install 'llava-rad[eval]'.\n"
    )


def test_an_import_that_no_extra_mends_stays_what_it_is():
    error = ModuleNotFoundError("No module named 'llava_rad.nothing'", name="llava_rad.nothing")
    assert missing_extra(error) is None
    with pytest.raises(ModuleNotFoundError), program_ending():
        raise error


def test_a_lora_to_train_needs_an_extra(monkeypatch):
    without(monkeypatch, "peft")
    tokenizer = byte_level_tokenizer()
    with pytest.raises(MissingExtraError) as caught:
        build(tokenizer, llm=tiny_llm("llama", len(tokenizer)), lora=LoraSettings(r=2))
    assert command("train") in str(caught.value)


def test_scoring_in_python_names_its_extra(monkeypatch):
    without(monkeypatch, "sacrebleu")
    with pytest.raises(MissingExtraError) as caught:
        llava_rad.score(["Clear."], ["Clear."])
    assert command("eval") in str(caught.value)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model with a LoRA, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny_model(folder, lora=LoraSettings(r=2))
    (folder / "images").mkdir()
    studies = []
    for i in range(2):
        file = folder / "images" / f"{i}.png"
        Image.linear_gradient("L").resize((64, 60 + i)).save(file)
        image = StudyImage(str(file), "frontal")
        studies.append(Study(f"s{i}", f"p{i}", images=(image,), findings="Clear.", split="test"))
    save_manifest(studies, folder / "studies.parquet")
    return folder


def run_core(folder, *commands):
    arguments = [part for line in commands for part in ("--", *line.split())]
    done = subprocess.run(
        [sys.executable, core_install.__file__, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"LLAVA_RAD_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done


@pytest.mark.slow
def test_report_encode_and_data_run_on_the_core_alone(work):
    found, done = run_core(
        work,
        "report studies.parquet --model model --max-new-tokens 4 --format json",
        "encode images --encoder model/encoder -o tokens.safetensors",
        "data folder images -o made.parquet",
        "data check studies.parquet",
        "configs list",
        "doctor",
    )
    assert found == {"codes": [0] * 6, "imported": []}, done.stderr
    assert (work / "tokens.safetensors").is_file() and (work / "made.parquet").is_file()
    assert "pip install 'llava-rad[quantize]'" in done.stdout  # the doctor's advice


@pytest.mark.slow
def test_every_other_command_names_what_it_needs(work):
    found, done = run_core(
        work,
        "train report vicuna_7b_lora",
        "train encoder vits14_224",
        "evaluate --model model --manifest studies.parquet -o out",
        "score predictions.jsonl -o out",
        "probe classification --encoder mini --manifest studies.parquet",
        "report images --model model --quantize 4bit",
        "serve model --port 0",
    )
    assert found["codes"] == [1] * 7, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    wanted = ("train", "train", "eval", "eval", "eval", "quantize", "serve")
    assert len(said) == 7, done.stderr
    assert all(command(extra) in line for extra, line in zip(wanted, said, strict=True)), said


@pytest.mark.slow
def test_reports_by_command_python_and_service_import_nothing_that_they_do_not_need(work):
    """With the extras installed."""
    code = (
        "import sys, llava_rad, llava_rad.serve.app; from llava_rad.cli import main\n"
        "llava_rad.load('model').report('images/0.png')\n"
        "main(['report', 'images/0.png', '--model', 'model', '--max-new-tokens', '4'])\n"
    )
    avoided = ("peft", "bitsandbytes", "datasets", "sklearn", "matplotlib", "tensorboard")
    avoided += ("pydicom.sr", "highdicom", "fpdf")  # of formats that were not asked for
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([m for m in {avoided} if m in sys.modules]))\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=work, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def build_distributions(folder):
    """The wheel and the source distribution of the checkout."""
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.check
def test_wheel_and_source_distribution_hold_what_is_needed(tmp_path):
    wheel, source = build_distributions(tmp_path / "dist")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("py.typed", "mini/config.json", "recipes/training/train_report.py"):
        assert f"llava_rad/{name}" in names
    page = [file for file in (ROOT / "llava_rad" / "serve" / "page").rglob("*.*") if file.is_file()]
    assert len(page) > 10
    assert {file.relative_to(ROOT).as_posix() for file in page if file.suffix != ".pyc"} <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/"))]
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    assert (unpacked / "tests" / "test_extras.py").is_file()
    again = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "2")]
    subprocess.run(again, cwd=unpacked, check=True, capture_output=True)
    assert set(zipfile.ZipFile(next((tmp_path / "2").glob("*.whl"))).namelist()) == names


def link_torch(site):
    """Torch with its accelerator's libraries, gigabytes that are not fetched a second time."""
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"].lower()
        if name.startswith(("torch", "triton", "nvidia", "cuda")):
            for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
                target = Path(str(found.locate_file(top)))
                if target.exists() and top != "__pycache__" and not (site / top).exists():
                    (site / top).symlink_to(target)


@pytest.mark.check
def test_the_wheel_alone_in_an_empty_environment(work, tmp_path):
    wheel, _ = build_distributions(tmp_path / "dist")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    link_torch(Path(site.strip()))
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    reach = [*pip, "download", "--no-deps", "-d", tmp_path, "six"]
    if subprocess.run(reach, capture_output=True).returncode:
        pytest.skip("the package index cannot be reached")
    subprocess.run([*pip, "install", "-c", ROOT / "constraints.txt", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)

    def call(*arguments):
        return subprocess.run(
            [python, "-m", "llava_rad", *arguments],
            capture_output=True,
            text=True,
            cwd=work,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            | {"LLAVA_RAD_CACHE": str(tmp_path / "cache")},
        )

    plain = [python, "-m", "pip", "--disable-pip-version-check"]
    listed = subprocess.run([*plain, "list", "--format", "json"], capture_output=True, check=True)
    installed = modules(p["name"].lower() for p in json.loads(listed.stdout))
    assert not installed & {module for names in EXTRAS.values() for module in names}
    for line in (
        "report images/0.png --model model --max-new-tokens 4",
        "encode images --encoder model/encoder -o wheel.safetensors",
        "data folder images -o wheel.jsonl",
        "data check studies.parquet",
        "configs copy vicuna_7b_lora -o wheel.yaml",
        "doctor",
    ):
        done = call(*line.split())
        assert done.returncode == 0, done.stderr
    refused = call("train", "report", "vicuna_7b_lora")
    assert refused.returncode == 1 and command("train") in refused.stderr
