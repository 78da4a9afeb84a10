"""training/train_observations.py on a tiny model, with a label that the pictures show."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers.probing_data import write_probing_data
from helpers.tiny_models import save_tiny_model
from typer.testing import CliRunner

from llava_rad.images import load_radiograph
from llava_rad.model import ReportRequest, RequestImage, load
from llava_rad.reports.generate import GenerationSettings, generate_reports

PROGRAM = Path(__file__).parents[2] / "training" / "train_observations.py"


def run(*arguments):
    spec = importlib.util.spec_from_file_location("train_observations", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return CliRunner().invoke(module.app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("observations")
    model = save_tiny_model(place)
    (place / "data").mkdir()
    manifest = write_probing_data(place / "data")
    config = place / "config.yaml"
    config.write_text(
        f"""
model: {model}
output: {place / "out"}
cache: {place / "cache"}
manifests: [{manifest}]
observations: {{Lung Opacity: [Bright, Missing]}}
outlines: {{manifests: [{manifest}], structures: [lungs], steps: 5}}
summary: {{sources: [{{path: {manifest}, weight: 0.75}}]}}
"""
    )
    done = run(config)
    assert done.exit_code == 0, done.stderr
    return model, place, manifest, config, done.stdout


def test_the_model_tells_of_its_pictures(made):
    model, _, manifest, _, _ = made
    loaded = load(model)
    studies = [json.loads(line) for line in manifest.read_text().splitlines()]
    bright, dark = [], []
    for study in studies[62:]:  # of test patients
        path = manifest.parent / study["images"][0]["path"]
        truth = {label["name"]: label["value"] for label in study["labels"]}["Bright"]
        request = ReportRequest((RequestImage("current_frontal", load_radiograph(path)),))
        [report] = generate_reports(loaded, [request], GenerationSettings(max_new_tokens=1))
        if truth is not None:
            (bright if truth else dark).append(report.observations["Lung Opacity"])
    assert sum(bright) / len(bright) > 0.2 + sum(dark) / len(dark)
    masks = loaded.outline(load_radiograph(path))
    assert list(masks) == ["lungs"] and masks["lungs"].shape == (70, 70)


def test_numbers_and_card(made):
    model, place, _, _, printed = made
    measures = json.loads((place / "out" / "observations.json").read_text())["measures"]
    assert measures["auroc"]["value"] > 0.7
    assert 0 <= measures["ece/Lung Opacity"]["value"] <= 1
    card = (Path(model) / "README.md").read_text()
    assert printed in card and "| Lung Opacity |" in card
    assert "unlike the training images" in card and "lungs" in card


def test_it_runs_again_and_says_what_is_wrong(made):
    *_, config, printed = made
    again = run(config)
    assert again.exit_code == 0 and again.stdout == printed
    wrong = run(config, "observations={Happiness: [Bright]}")
    assert wrong.exit_code == 2 and "there is no observation 'Happiness'" in wrong.stderr
    wrong = run(config, "observations={Edema: [Never]}")
    assert wrong.exit_code == 1 and "'Edema' is of one value" in wrong.stderr
    wrong = run(config, "manifests=[]")
    assert wrong.exit_code == 2 and "belong together" in wrong.stderr
