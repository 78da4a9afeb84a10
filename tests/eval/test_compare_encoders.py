"""The programs eval/compare_encoders.py and eval/visualise.py, run whole on tiny pictures."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.probing_data import write_probing_data
from helpers.tiny_models import tiny_encoder
from PIL import Image
from typer.testing import CliRunner

from llava_rad.comparisons import CompareConfig
from llava_rad.config import load_config
from llava_rad.model.observation_head import ObservationHead
from llava_rad.probing import encoder_facts, load_judged
from llava_rad.probing.comparison import comparison_files

ROOT = Path(__file__).parents[2]

# A process that holds a folder until its standard input ends.
HOLDS = """
import sys
from llava_rad.outputs import own_folder
with own_folder(sys.argv[1], "comparison"):
    print("holds", flush=True)
    sys.stdin.read()
"""


def program(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "eval" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    return CliRunner().invoke(program(name).app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_probing_data(folder)
    tiny_encoder().save_pretrained(folder / "tiny")
    (folder / "compare.yaml").write_text(
        f"""
output: {folder}/out
cache: {folder}/cache
resamples: 100
encoders:
  - {{name: tiny, encoder: {folder}/tiny}}
  - {{name: pixels, encoder: pixels, image_size: 56}}
  - {{name: absent, encoder: "nobody/nothing"}}
tasks:
  - {{name: bright, manifests: [{folder}/manifest.jsonl], labels: [Bright]}}
  - {{name: years, manifests: [{folder}/manifest.jsonl], column: age}}
  - {{name: lungs, manifests: [{folder}/manifest.jsonl], masks: [lungs], steps: 20, seeds: 1}}
"""
    )
    return folder


@pytest.fixture(scope="module")
def compared(folder):
    result = run("compare_encoders", folder / "compare.yaml")
    assert result.exit_code == 0, result.stderr
    return result


def test_table_in_four_formats(compared, folder):
    assert compared.stdout == (folder / "out" / "comparison.md").read_text()
    for ending in ("csv", "html"):
        text = (folder / "out" / f"comparison.{ending}").read_text()
        assert "bright" in text and "pixels" in text
    content = json.loads((folder / "out" / "comparison.json").read_text())
    assert list(content["tasks"]) == ["bright", "years", "lungs"]
    assert content["tasks"]["bright"]["pixels"]["auroc"]["value"] == 1.0
    assert {(p["task"], p["first"], p["second"]) for p in content["pairs"]} == {
        (task, "pixels", "tiny") for task in content["tasks"]
    }
    assert content["encoders"]["tiny"]["parameters"] == 29_184


def test_results_are_known_and_strangers_are_kept(compared, folder, tmp_path):
    for name, is_ours in comparison_files("comparison").items():
        assert is_ours(folder / "out" / name), name
    for name in comparison_files("comparison"):
        (tmp_path / name).write_text("| my notes |\n")
        result = run("compare_encoders", folder / "compare.yaml", f"output={tmp_path}")
        assert result.exit_code == 1
        assert f"{tmp_path / name}: there is a file already" in result.stderr
        assert (tmp_path / name).read_text() == "| my notes |\n"
        (tmp_path / name).unlink()


def test_a_second_comparison_beside_the_first_is_refused(folder, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        result = run("compare_encoders", folder / "compare.yaml", f"output={tmp_path}")
        holder.stdin.close()
    assert result.exit_code == 1 and f"(process {holder.pid} on " in result.stderr


def test_an_encoder_that_is_not_there_is_named_and_left_out(compared, folder):
    assert "left out: absent. nobody/nothing: " in compared.stderr
    assert "Not compared: absent" in compared.stdout
    result = run("compare_encoders", folder / "compare.yaml", "--require")
    assert result.exit_code == 1 and "error: nobody/nothing" in result.stderr


def test_what_is_done_is_not_done_again(compared, folder, monkeypatch):
    module = program("compare_encoders")
    monkeypatch.setattr("llava_rad.probing.judging.run_task", None)
    result = CliRunner().invoke(
        module.app, [str(folder / "compare.yaml"), "reference=pixels", "tasks.0.name=light"]
    )
    assert result.exit_code == 0, result.stderr
    assert "| light | tiny |" in result.stdout
    # Another setting of a task is another task.
    result = CliRunner().invoke(module.app, [str(folder / "compare.yaml"), "tasks.0.pooling=mean"])
    assert isinstance(result.exception, TypeError)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks.0.column=sex", "one of labels, column and masks"),
        ("reference=nobody", "Use one of tiny, pixels, absent"),
        ("encoders.1.name=tiny", "each with a name of its own"),
        ("tasks.0.heads=linear", "Did you mean 'head'"),
    ],
)
def test_a_wrong_configuration_is_one_line(folder, override, message):
    result = run("compare_encoders", folder / "compare.yaml", override)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_configurations_of_the_repository_are_valid():
    program("compare_encoders")
    for path in sorted((ROOT / "configs" / "eval").glob("*.yaml")):
        config = load_config(CompareConfig, path)
        assert len(config.tasks) >= 4 and len(config.encoders) >= 3


def test_three_pictures(folder):
    result = run(
        "visualise", "--encoder", folder / "tiny", "--manifest", folder / "manifest.jsonl",
        "-o", folder / "seen", "--images", 4, "--neighbours", 2, "--cache", folder / "cache",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [Path(line).name for line in result.stdout.split()] == [
        "pca.png", "attention.png", "neighbours.png",
    ]  # fmt: skip
    pictures = {p.stem: Image.open(p) for p in (folder / "seen").iterdir()}
    titles = {stem: picture.info["Title"] for stem, picture in pictures.items()}
    for stem, words in (
        ("pca", "principal components"), ("attention", "Attention of CLS"),
        ("neighbours", "Nearest neighbours"),
    ):  # fmt: skip
        assert words in titles[stem] and "tiny" in titles[stem]
    assert pictures["neighbours"].height > pictures["pca"].height
    again = run(
        "visualise", "--encoder", "pixels", "--image-size", 56, "--manifest",
        folder / "manifest.jsonl", "-o", folder / "seen", "--images", 2,
        "--cache", folder / "cache",
    )  # fmt: skip
    assert again.exit_code == 0, "own pictures are drawn anew"
    (folder / "theirs").mkdir()
    Image.new("L", (9, 9)).save(folder / "theirs" / "pca.png")
    before = (folder / "theirs" / "pca.png").read_bytes()
    stranger = run(
        "visualise", "--encoder", "pixels", "--image-size", 56, "--manifest",
        folder / "manifest.jsonl", "-o", folder / "theirs",
    )  # fmt: skip
    assert stranger.exit_code == 1 and "there is a file already" in stranger.stderr
    assert (folder / "theirs" / "pca.png").read_bytes() == before


def test_a_head_is_mapped(folder):
    encoder = load_judged(str(folder / "tiny"))
    draw = torch.Generator().manual_seed(0)
    ObservationHead(
        ("Bright", "Dark"),
        torch.randn(2, 2 * encoder.dim, generator=draw),
        torch.zeros(2),
        torch.ones(2),
        {"encoder": encoder_facts(encoder)},
    ).save(folder / "head.safetensors")
    asked = (
        "visualise", "--encoder", folder / "tiny", "--manifest", folder / "manifest.jsonl",
        "-o", folder / "mapped", "--images", 2, "--cache", folder / "cache",
        "--head", folder / "head.safetensors", "--labels",
    )  # fmt: skip
    result = run(*asked, "Bright")
    assert result.exit_code == 0, result.stderr
    picture = Image.open(folder / "mapped" / "observations.png")
    assert "a head's logits" in picture.info["Title"]
    refused = run(*asked, "Nodule")
    assert refused.exit_code == 2 and "no label 'Nodule'" in refused.stderr


def test_an_encoder_without_attention_gets_the_other_two(folder):
    result = run(
        "visualise", "--encoder", "pixels", "--image-size", 56, "--manifest",
        folder / "manifest.jsonl", "-o", folder / "pixels", "--images", 2,
        "--cache", folder / "cache",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "no attention.png" in result.stderr
    assert len(result.stdout.split()) == 2
