"""The program eval/segmentation.py, run whole on tiny pictures."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers.probing_data import write_probing_data
from PIL import Image
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("segmentation", ROOT / "eval/segmentation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


@pytest.fixture(scope="module")
def trained(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    manifest = write_probing_data(folder)
    result = CliRunner().invoke(
        program,
        [
            "--encoder", "pixels", "--image-size", "56", "--manifest", str(manifest),
            "--steps", "60", "--seeds", "2", "--cache", str(folder / "cache"),
            "--save", str(folder / "head"), "--overlays", str(folder / "overlays.png"),
            "-o", str(folder / "numbers.json"),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return result, folder


def test_table_numbers_and_overlays(trained):
    result, folder = trained
    (record,) = json.loads((folder / "numbers.json").read_text())["results"]
    value = record["measures"]["dice"]
    assert value["low"] <= value["value"] <= value["high"]
    assert f"{value['value']:.3f}" in result.stdout
    assert "learning rate" in result.stderr and "learning rate" not in result.stdout
    picture = Image.open(folder / "overlays.png")
    assert picture.width > 3 * 70 and picture.height > 3 * 70
    assert picture.info["Title"].startswith("lungs: linear head on ")


def test_worst_middle_and_best_are_each_shown_once():
    spec = importlib.util.spec_from_file_location("segmentation", ROOT / "eval/segmentation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shown = module.ends_and_middle(list(range(20)))
    assert shown == {"Worst": [0, 1, 2], "Middle": [8, 9, 10], "Best": [19, 18, 17]}
    assert module.ends_and_middle([5, 4]) == {"Worst": [5, 4], "Middle": [], "Best": []}
    few = module.ends_and_middle(list(range(8)))
    assert sorted(i for some in few.values() for i in some) == list(range(8))


@pytest.mark.parametrize("option", ["--overlays", "--output", "--save"])
def test_neither_an_image_nor_a_strangers_file_is_written_over(program, trained, tmp_path, option):
    _, folder = trained
    arguments = [
        "--encoder", "pixels", "--image-size", "56", "--manifest", str(folder / "manifest.jsonl"),
        "--cache", str(folder / "cache"), "--steps", "1", "--seeds", "1",
    ]  # fmt: skip
    theirs = tmp_path / ("segmentation.safetensors" if option == "--save" else "theirs")
    theirs.write_text("mine")
    place = tmp_path if option == "--save" else theirs
    result = CliRunner().invoke(program, [*arguments, option, str(place)])
    assert result.exit_code == 1 and "there is a file already" in result.stderr
    assert theirs.read_text() == "mine"
    if option != "--save":
        studies = (json.loads(line) for line in (folder / "manifest.jsonl").open())
        image = folder / next(studies)["images"][0]["path"]
        before = image.read_bytes()
        result = CliRunner().invoke(program, [*arguments, "--overwrite", option, str(image)])
        assert result.exit_code == 1 and "one of the inputs" in result.stderr
        assert image.read_bytes() == before


def test_a_saved_head_is_tested_without_training(program, trained):
    _, folder = trained
    arguments = [
        "--encoder", "pixels", "--image-size", "56", "--manifest", str(folder / "manifest.jsonl"),
        "--cache", str(folder / "cache"), "--load", str(folder / "head"),
        "-o", str(folder / "again.json"),
    ]  # fmt: skip
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.stderr
    (record,) = json.loads((folder / "again.json").read_text())["results"]
    (first,) = json.loads((folder / "numbers.json").read_text())["results"]
    assert record["fits"] == 1 and record["validation_dice"] == {}
    assert record["measures"]["dice"]["value"] == pytest.approx(
        first["measures"]["dice"]["value"], abs=0.05
    )
    arguments[arguments.index("56")] = "70"
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the head was trained on the tokens of pixels")
