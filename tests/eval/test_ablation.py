"""The program eval/ablation.py, with real pretrainings of a tiny vision transformer."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pretraining_runs import PROGRAM, make_encoder, metrics, tiny_config
from helpers.probing_data import write_probing_data
from helpers.program_runs import start_program
from PIL import Image
from typer.testing import CliRunner

from llava_rad.comparisons import AblationConfig
from llava_rad.config import load_config, save_config
from llava_rad.data import load_manifest

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))


def program():
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "eval" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoke(module, *arguments):
    return CliRunner().invoke(module.app, [str(argument) for argument in arguments])


def run_at_once(command, log):
    """The pretraining in a process of its own, without waiting for a new interpreter."""
    python, script, *arguments = command
    assert (python, script) == (sys.executable, str(PROGRAM))
    (process,) = start_program(PROGRAM, arguments, log)
    process.join(300)
    return process.exitcode


def failing():
    """The program, whose pretrainings fail at once, and the folders of those it has tried."""
    module, tried = program(), []

    def run(command, log):
        tried.append(Path(command[-1]).parent.name)
        log.write_text("cannot start\n")
        return 1

    module.run = run
    return module, tried


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """80 images, a recipe, and an ablation of which one cell cannot start."""
    folder = tmp_path_factory.mktemp("ablation")
    write_probing_data(folder)
    make_encoder(folder / "tiny")
    recipe = tiny_config(folder, folder / "unused")
    data = replace(recipe.data, sources=[], cache_folder=None)
    save_config(replace(recipe, data=data), folder / "recipe.yaml")
    (folder / "ablation.yaml").write_text(
        f"""
title: How many & which
output: {folder}/out
cache: {folder}/features
recipe: {folder}/recipe.yaml
steps: 3
resamples: 100
axis: share of the training patients, %
log: true
sources:
  tiny: {{path: {folder}/manifest.jsonl}}
cells:
  - {{name: 25 %, x: 25, patients: 0.25}}
  - {{name: broken, x: 50, overrides: {{backbone: {{encoder: {folder}/nowhere}}}}}}
  - {{name: 100 %, x: 100}}
encoders:
  - {{name: pixels, encoder: pixels, image_size: 56}}
tasks:
  - {{name: bright, manifests: [{folder}/manifest.jsonl], labels: [Bright]}}
  - {{name: lungs, manifests: [{folder}/manifest.jsonl], masks: [lungs], steps: 10, seeds: 1}}
"""
    )
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    module = program()
    module.run = run_at_once
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield invoke(module, folder / "ablation.yaml")
    torch.set_num_threads(threads)


@pytest.fixture
def content(finished, folder):
    assert finished.stdout, finished.stderr or finished.exception
    return json.loads((folder / "out" / "ablation.json").read_text())


@pytest.mark.slow
def test_table_in_its_formats(finished, folder, content):
    assert finished.stdout == (folder / "out" / "ablation.md").read_text()
    rows = [line.split(" | ") for line in finished.stdout.splitlines()]
    assert rows[0][:5] == ["| pretraining", "patients", "images", "steps", "input"]
    assert rows[2][:5] == ["| 25 %", "6", "12", "3", "28 px"]
    assert rows[3][:5] == ["| 100 %", "24", "48", "3", "28 px"]
    assert [row[0] for row in rows[4:6]] == ["| random weights", "| pixels"]
    assert content["tasks"]["bright"]["pixels"]["auroc"]["value"] == 1.0
    assert "pretraining,patients,images" in (folder / "out" / "ablation.csv").read_text()
    page = (folder / "out" / "ablation.html").read_text()
    assert "<title>How many &amp; which</title>" in page and "<svg" in page
    assert ET.parse(folder / "out" / "ablation.svg").getroot().tag.endswith("svg")
    assert Image.open(folder / "out" / "ablation.png").width > 600


@pytest.mark.slow
def test_pretrainings_are_equally_long_on_their_own_patients(content, folder):
    few, everything = (
        Path(*content["pretrainings"][name]["folders"]) for name in ("25 %", "100 %")
    )
    rates = [[row["lr"] for row in metrics(run) if "lr" in row] for run in (few, everything)]
    assert len(rates[0]) == 3 and rates[0] == rates[1]
    drawn = load_manifest(folder / "out" / "manifests" / "tiny-25-percent-seed0.jsonl")
    assert {study.split for study in drawn} == {"train"}
    assert all(Path(image.path).is_file() for study in drawn for image in study.images)
    assert str(len(drawn)) in (few / "encoder" / "README.md").read_text()
    record = json.loads((few / "finished.json").read_text())
    assert record["seed"] == 0 and len(record["sources"]["tiny"]) == 64


@pytest.mark.slow
def test_a_failed_pretraining_is_named_and_the_others_are_judged(finished, folder):
    assert finished.exit_code == 1
    assert "FAILED: broken, seed 0." in finished.stderr
    assert f"    error: {folder}/nowhere: " in finished.stderr  # the end of its log
    assert "1 of 3 pretrainings failed" in finished.stderr
    assert "Not compared: broken. " in finished.stdout
    assert "| bright | 100 % |" in finished.stdout


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(finished, folder, monkeypatch):
    module, tried = failing()
    monkeypatch.setattr("llava_rad.probing.judging.run_task", None)
    again = invoke(module, folder / "ablation.yaml")
    assert [name.split("-")[0] for name in tried] == ["broken"]
    # A failed pretraining goes on in its folder, where its checkpoints are.
    assert {"log.txt", "recipe.yaml"} <= {
        path.name for path in (folder / "out" / "pretrainings" / tried[0]).iterdir()
    }
    assert again.stdout.splitlines()[2:6] == finished.stdout.splitlines()[2:6]
    # Another length, seed, number of processes or set of images is another pretraining.
    for change in (
        "steps=4",
        "seeds=[7]",
        "launcher=env",
        "overrides.data.views=[frontal]",
    ):
        tried.clear()
        invoke(module, folder / "ablation.yaml", change, f"output={folder}/out")
        assert len(tried) == 3, change


@pytest.mark.slow
def test_one_cell_alone(finished, folder):
    module, tried = failing()
    result = invoke(module, folder / "ablation.yaml", "steps=5", "--only", "100 %")
    assert result.exit_code == 1 and "no pretraining is finished" in result.stderr
    assert len(tried) == 1 and tried[0].startswith("100--")
    # What others have finished is collected.
    result = invoke(module, folder / "ablation.yaml", "--only", "25 %")
    assert result.exit_code == 0 and "Not compared: broken. not pretrained yet" in result.stdout


def test_smaller_shares_lie_inside_larger_ones(folder):
    module = program()
    changes = [
        "cells=[{name: a, patients: 0.1}, {name: b, patients: 0.3}, {name: c}]",
        "seeds=[0, 1]",
    ]
    settings = load_config(AblationConfig, folder / "ablation.yaml", changes)
    patients = {
        (v.name, v.seed): {s.patient_id for s in v.drawn["tiny"].studies}
        for v in module.plan(settings)
    }
    for seed in (0, 1):
        few, some, everyone = (patients[name, seed] for name in "abc")
        assert few < some < everyone
        assert (len(few), len(some), len(everyone)) == (2, 7, 24)
    assert patients["b", 0] != patients["b", 1]


def test_a_launcher_starts_the_pretrainings(folder, tmp_path):
    """Any command; what it prints before it fails is shown."""
    (tmp_path / "launch.py").write_text("import sys\nprint(*sys.argv[1:3])\nsys.exit(3)\n")
    result = invoke(
        program(), folder / "ablation.yaml", f"launcher={sys.executable} {tmp_path}/launch.py",
        f"output={tmp_path}/out",
    )  # fmt: skip
    assert f"    {PROGRAM} " in result.stderr
    assert "ended with exit code 3" in result.stderr
    assert "no pretraining is finished" in result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources={}", "there are no images to learn from"),
        ("cells.0.sources=[others]", "there is no source others"),
        ("cells.0.x=null", "only some cells have an x"),
        ("cells.0.name=100 %", "each with a name of its own"),
        ("cells.0.patients=1.5", "'cells.0.patients' must be above 0 and at most 1, got 1.5"),
        ("overrides.crops.global_sise=28", "Did you mean 'global_size'"),
        ("overrides.optimiser.batch_size=13", "25 %: 12 images are fewer than the 13"),
        ("overrides.data.sources=[{path: x}]", "Name the images under sources"),
        ("sources.tiny.split=test", "belong to what the encoder is pretrained on"),
        ("tasks.0.labels=[Dark]", "there is no label 'Dark'"),
        ("launcher=no-such-program", "there is no program 'no-such-program'"),
        ("steps=0", "'steps' must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_found_before_anything_runs(folder, tmp_path, override, message):
    module = program()
    module.run = None
    result = invoke(module, folder / "ablation.yaml", override, f"output={tmp_path}/out")
    assert result.exit_code in (1, 2)  # an error in the data, or in the settings
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_images_without_patients_have_no_shares(folder):
    module, source = program(), f"sources={{all: {{path: {folder}/masks}}}}"
    result = invoke(module, folder / "ablation.yaml", source)
    assert "sources.all: only a manifest knows its patients" in result.stderr
    result = invoke(module, folder / "ablation.yaml", source, "cells=[{name: all}]", "--dry-run")
    assert "| all | 0 |  | 80 | 3 |" in result.stdout


def test_under_a_launcher_it_refuses_to_run(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = invoke(program(), folder / "ablation.yaml")
    assert result.exit_code == 2 and "set launcher" in result.stderr


def test_the_kinds_of_ablation_are_there():
    assert [path.stem for path in CONFIGS] == [
        "crop_scales", "initialisation", "masked_image", "mini_quantity", "mini_recipe", "quantity",
        "resolution", "sources",
    ]  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_of_the_repository(folder, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    module, manifest = program(), folder / "manifest.jsonl"
    config = load_config(AblationConfig, path)
    assert len(config.tasks) >= 3 and len(config.cells) >= 2
    names = config.sources or ["one", "two"]
    result = invoke(
        module, path, "--dry-run",
        "overrides.optimiser.batch_size=2", "overrides.high_resolution=null",
        f"sources={{{', '.join(f'{name}: {{path: {manifest}}}' for name in names)}}}",
        f"tasks=[{{name: bright, manifests: [{manifest}], labels: [Bright]}}]",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    head, _, *rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == [cell.name for cell in config.cells]
    assert {row[head.index("steps")] for row in rows} == {str(config.steps)}
    assert {row[head.index("images a step and process")] for row in rows} == {
        rows[0][head.index("images a step and process")]
    }
