"""Presets: files of the right form, their columns, and what the command line changes."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava_rad.cli import options
from llava_rad.errors import ConfigError
from llava_rad.evaluation import evaluate_predictions, presets, read_predictions, to_json
from llava_rad.evaluation.output import evaluation_table
from llava_rad.evaluation.page import render_page
from llava_rad.evaluation.presets import PRESETS, AppliedPreset, apply_preset, load_preset
from llava_rad.metrics import HEADLINES, MetricSettings, Scorer
from llava_rad.metrics.score import DEFINITIONS


def test_names_are_the_files_and_the_options():
    files = sorted(path.stem for path in Path(presets.__file__).parent.glob("published/*.yaml"))
    assert files == sorted(PRESETS)
    assert options.PresetName.__args__ == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_what_there_is(name):
    preset = load_preset(name)
    known = set(vars(MetricSettings()))
    assert set(preset.options()) - {"metrics", "primary", "resamples"} <= known
    assert {column.metric for column in preset.columns} == set(preset.metrics)
    metric, _, value = preset.primary.partition("/")
    assert value in HEADLINES[metric] and set(preset.metrics) <= set(DEFINITIONS)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="Choose one of llava-rad"):
        load_preset("rexrnak")


@pytest.fixture
def pairs(tmp_path, metric_parity):
    """A quarter of the parity pairs, two studies a patient."""
    path = tmp_path / "pairs.jsonl"
    rows = zip(metric_parity["hyps"][:50], metric_parity["refs"][:50], strict=True)
    path.write_text(
        "".join(
            json.dumps({"id": i, "prediction": p, "reference": r, "patient_id": i // 2}) + "\n"
            for i, (p, r) in enumerate(rows)
        )
    )
    return path


def evaluated(path, name, metrics, settings=None, resamples=200):
    preset = AppliedPreset(name, load_preset(name))
    return evaluate_predictions(
        read_predictions(path),
        Scorer(metrics, settings),
        primary=preset.preset.primary,
        section=preset.preset.section,
        resamples=resamples,
        preset=preset,
    )


def test_medians_are_those_of_studies_drawn(pairs):
    from scipy.stats import bootstrap

    evaluation = evaluated(pairs, "llava-rad", ["rouge", "bleu_sacrebleu"], resamples=4000)
    assert evaluation.units.count == 50
    values = evaluation.scores.results["rouge"].per_pair["rougeL"]
    drawn = bootstrap((values,), np.mean, n_resamples=4000, rng=0).bootstrap_distribution
    rows = {row["name"]: row for row in evaluation.published()}
    assert rows["ROUGE-L"]["number"] == pytest.approx(100 * np.median(drawn), abs=0.15)
    bleu = evaluation.scores.results["bleu_sacrebleu"].values["bleu_4"]
    assert rows["BLEU-4"]["number"] == pytest.approx(bleu)
    assert rows["Micro-F1-14"]["number"] is None
    assert "hf download" in rows["Micro-F1-14"]["missing"]


def test_one_study_has_no_median_and_it_is_said(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"id": 1, "prediction": "No effusion.", "reference": "Effusion."}))
    evaluation = evaluated(path, "llava-rad", ["rouge", "bleu_sacrebleu"])
    rows = {row["name"]: row for row in evaluation.published()}
    assert rows["ROUGE-L"]["number"] == pytest.approx(100 * 2 / 3)
    assert rows["ROUGE-L"]["printed"].startswith("the value (nothing")
    assert rows["BLEU-4"]["printed"] == "the value"
    assert rows["F1-RadGraph"]["printed"] == "the median of the resamples"
    assert any("1 study (no patient ids) alone" in warning for warning in evaluation.warnings)


def test_json_table_and_page_say_the_preset_and_all_it_set(pairs):
    evaluation = evaluated(pairs, "rexrank", ["bleu_rexrank"], resamples=20)
    content = json.loads(json.dumps(to_json(evaluation), allow_nan=False))["preset"]
    assert content["name"] == "rexrank" and content["overridden"] == {}
    assert content["set"]["radgraph_model"] == "radgraph"
    assert content["set"]["bertscore_rescale"] is True
    assert content["set"]["section"] == "findings_and_impression"
    columns = {row["name"]: row for row in content["table"]}
    assert list(columns) == [
        *("BLEU-2", "BERTScore", "SembScore", "RadGraph", "1/RadCliQ-v1", "RaTEScore", "GREEN")
    ]
    value = evaluation.scores.results["bleu_rexrank"].values["bleu_2"]
    assert columns["BLEU-2"]["number"] == pytest.approx(value)
    assert evaluation.units.count == 25  # patients

    table = evaluation_table(evaluation)
    assert "as ReXrank prints it:" in table and f"{value:.4f}" in table
    page = render_page(evaluation)
    assert "As ReXrank prints it" in page and "CXR-Report-Metric" in page
    assert "bertscore rescale" in page


def test_the_order_of_metrics_is_no_other_convention():
    mine = ", ".join(reversed(load_preset("rexrank").metrics))
    assert apply_preset("rexrank", {"metrics": mine}).overridden == {}
    assert apply_preset("rexrank", {"metrics": "green"}).overridden == {"metrics": "green"}


def test_a_folder_of_its_model_is_no_other_model(tmp_path):
    folder = tmp_path / "distilroberta-base"
    given = {"bertscore_model": str(folder)}
    assert apply_preset("rexrank", given).overridden == given  # there is no such folder
    folder.mkdir()
    applied = apply_preset("rexrank", given)
    assert applied.overridden == {} and applied.chosen()["bertscore_model"] == str(folder)
    assert apply_preset("radeval", given).overridden == given


def test_texts_are_prepared_as_published(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"id": "1", "prediction": "No   effusion.", "reference": "No  effusion.\n Clear."}
    path.write_text(json.dumps(row))
    evaluation = evaluated(path, "rexrank", ["bleu_rexrank"], resamples=5)
    assert evaluation.predictions.predictions == ["No effusion."]
    assert evaluation.predictions.references == ["No effusion.\n Clear."]


def test_an_inverse_is_of_the_mean():
    from llava_rad.metrics.result import mean_result
    from llava_rad.metrics.score import Scores

    result = mean_result("radcliq_v1", {"radcliq_v1": [0.5, 1.5, 2.0]}, facts={})
    applied = AppliedPreset("rexrank", load_preset("rexrank"))
    rows = {row["name"]: row for row in applied.rows(Scores({"radcliq_v1": result}), {})}
    assert rows["1/RadCliQ-v1"]["number"] == pytest.approx(0.75)
