"""Texts in memory are scored as a file of them is."""

import json

import pandas
import pytest

import llava_rad
from llava_rad.errors import ConfigError, DataError, MetricError
from llava_rad.evaluation import (
    evaluate_predictions,
    evaluation_table,
    read_predictions,
    to_json,
)
from llava_rad.evaluation.predictions import given_predictions
from llava_rad.evaluation.presets import AppliedPreset, load_preset
from llava_rad.metrics import MetricSettings, Scorer
from llava_rad.reports import Report

WRITTEN = ["No effusion. Heart size is normal.", "Large left effusion.", "Clear lungs."]
TRUE = ["No pleural effusion. Normal heart.", "Large left pleural effusion.", "Lungs are clear."]
PATIENTS = ["a", "b", "b"]
REXRANK = {
    "radgraph_model": "radgraph",
    "bertscore_model": "distilroberta-base",
    "bertscore_layer": 5,
    "bertscore_rescale": True,
}
METRICS = ["rouge", "bleu_coco", "chexpert_rules"]


@pytest.fixture(scope="module")
def table():
    return llava_rad.score(WRITTEN, TRUE, patients=PATIENTS, metrics=METRICS, resamples=50)


def test_it_is_the_table_of_a_file(table, tmp_path):
    file = tmp_path / "given texts"
    rows = zip(WRITTEN, TRUE, PATIENTS, strict=True)
    file.write_text(
        "".join(
            json.dumps({"id": i, "prediction": p, "reference": r, "patient_id": n}) + "\n"
            for i, (p, r, n) in enumerate(rows)
        )
    )
    evaluation = evaluate_predictions(read_predictions(file), Scorer(METRICS), resamples=50)
    assert repr(table).startswith(evaluation_table(evaluation))
    assert table.warnings == evaluation.warnings


def test_patients_that_are_not_known_are_no_patient():
    found = given_predictions(WRITTEN, TRUE, patients=[None, float("nan"), "p"])
    assert [row.patient for row in found.rows] == [None, None, "p"]


def test_values_are_had_by_name_as_dictionary_and_as_frame(table):
    values = table.to_dict()
    json.dumps(values, allow_nan=False)
    assert values["metrics"]["rouge"]["values"]["rouge1"]["value"] == table["rouge/rouge1"]
    frame = table.to_pandas()
    assert frame.loc[("rouge", "rouge1"), "result"] == table["rouge/rouge1"]
    assert frame.index[0][0] == "chexpert_rules"
    assert {"result", "low", "high"} < set(frame.columns)
    assert "&lt;" not in table._repr_html_() and "<pre>" in table._repr_html_()


def test_reports_are_scored_by_their_findings(table):
    reports = [Report(text, "m", 1, False, False) for text in WRITTEN]
    again = llava_rad.score(reports, TRUE, patients=PATIENTS, metrics=METRICS, resamples=50)
    assert repr(again) == repr(table)


def test_columns_of_a_frame_and_iterators_are_lists(table):
    frame = pandas.DataFrame({"p": WRITTEN, "r": TRUE, "who": PATIENTS}, index=[7, 3, 5])
    options = {"metrics": METRICS, "resamples": 50}
    again = llava_rad.score(frame["p"], frame["r"], patients=frame["who"], **options)
    assert repr(again) == repr(table)
    again = llava_rad.score(iter(WRITTEN), iter(TRUE), patients=iter(PATIENTS), **options)
    assert repr(again) == repr(table)


def test_what_was_not_computed_is_said():
    table = llava_rad.score(
        WRITTEN, TRUE, metrics=["rouge", "chexpert_rules"], language="de", resamples=50
    )
    assert "chexpert_rules" in table.left_out
    assert "not computed: chexpert_rules" in repr(table)


def test_lists_that_do_not_fit_are_refused():
    for written, true, patients in (
        (WRITTEN, TRUE[:2], None),
        ([], [], None),
        (WRITTEN, TRUE, ["a"]),
        ([None] * 3, TRUE, None),
        ("abc", TRUE, None),
        (WRITTEN, "abc", None),
    ):
        with pytest.raises((MetricError, DataError)):
            llava_rad.score(written, true, patients=patients, metrics=METRICS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metrics": "rouge"}, "metrics are a list of names, got the text 'rouge'"),
        ({"metrics": "rouge", "preset": "rexrank"}, "metrics are a list"),
        ({"metrics": []}, "no metric is named"),
        ({"metrics": [], "preset": "rexrank"}, "no metric is named"),
        ({"resamples": 0}, "resamples are 0"),
        ({"resamples": 1.5}, "resamples are 1.5"),
        ({"resamples": -1, "preset": "llava-rad"}, "resamples are -1"),
        ({"primary": "bleu"}, "there is no value 'bleu'"),
        ({"preset": "rexrnk"}, "there is no preset 'rexrnk'"),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        llava_rad.score(WRITTEN, TRUE, **{"metrics": METRICS, **options})


def test_what_nothing_could_be_computed_of_is_one_sentence():
    with pytest.raises(MetricError) as error:
        llava_rad.score(WRITTEN, TRUE, preset="f1chexbert")
    assert "hf download" in str(error.value) and ".." not in str(error.value)


def test_a_preset_is_followed_as_for_a_file(metric_parity):
    written, true = metric_parity["hyps"][:6], metric_parity["refs"][:6]
    table = llava_rad.score(written, true, patients=list("aabbcc"), preset="rexrank", resamples=50)
    preset = AppliedPreset("rexrank", load_preset("rexrank"), {"resamples": 50})
    evaluation = evaluate_predictions(
        given_predictions(written, true, patients=list("aabbcc")),
        Scorer(preset.preset.metrics, MetricSettings(**REXRANK)),
        section="findings_and_impression",
        primary=preset.preset.primary,
        resamples=50,
        preset=preset,
    )
    assert table.to_dict() == to_json(evaluation)
    assert "as ReXrank prints it:" in repr(table)


def test_what_is_named_beside_a_preset_wins_and_is_told(metric_parity):
    table = llava_rad.score(
        *(metric_parity[side][:6] for side in ("hyps", "refs")),
        preset="llava-rad",
        metrics=["rouge", "bleu_sacrebleu"],
        section="impression",
        settings=MetricSettings(chexbert_precision="bfloat16"),
    )
    overridden = table.to_dict()["preset"]["overridden"]
    assert overridden == {
        "chexbert_precision": "bfloat16",
        "metrics": "rouge, bleu_sacrebleu",
        "section": "impression",
    }
    assert table.evaluation.section == "impression"
    told = [warning for warning in table.warnings if "preset llava-rad sets" in warning]
    assert len(told) == 3 and told[0] in repr(table)
    with pytest.raises(ConfigError, match="no preset 'rexrnak'"):
        llava_rad.score(WRITTEN, TRUE, preset="rexrnak")
