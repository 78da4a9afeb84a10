"""Errors by subgroup, worked out by hand on small tables."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from llava_rad.evaluation import Prediction, Predictions, evaluate_predictions
from llava_rad.evaluation.error_changes import change_rows, error_changes
from llava_rad.evaluation.error_output import write_errors
from llava_rad.evaluation.observation_errors import (
    FEW,
    ROWS,
    TOGETHER,
    Stated,
    error_matrix,
    matrix_rows,
    stated_observations,
)
from llava_rad.evaluation.presets import AppliedPreset, load_preset
from llava_rad.evaluation.subgroups import MOST_VALUES, find_subgroups
from llava_rad.metrics import Scorer
from llava_rad.metrics.label_f1 import label_f1
from llava_rad.observations import OBSERVATIONS, Mention
from llava_rad.statistics import Units, holm

EDEMA, FRACTURE = OBSERVATIONS.index("Edema"), OBSERVATIONS.index("Fracture")
PRIMARY = "chexpert_rules/uncertain_positive/14/micro/f1"


def row(i, prediction="", reference="", **more):
    return Prediction(f"s{i}", prediction, reference, {}, None, f"p{i}", None, **more)


def stated(predicted, expected, observation=EDEMA):
    """Labels that state one observation or nothing."""
    both = np.zeros((2, len(expected), 14), dtype=bool)
    both[0, :, observation], both[1, :, observation] = predicted, expected
    return Stated("chexpert_rules", "uncertain_positive", *both)


def groups_of(rows, normal=None):
    return find_subgroups(rows, normal, "not told: no labels")


def cells(rows):
    """Cells as ``{(subgroup, value, observation): row}``."""
    return {(r["subgroup"], r["value"], r["observation"]): r for r in rows}


def test_found_missed_and_invented_are_counted_in_each_subgroup():
    rows = [row(i, sex="F" if i < 6 else "M") for i in range(10)]
    #                   F                    M
    expected = [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]
    predicted = [1, 1, 1, 0, 1, 0, 0, 0, 1, 1]
    labels = stated(np.array(predicted, bool), np.array(expected, bool))
    units = Units.of([r.patient for r in rows])
    found = cells(matrix_rows(error_matrix(labels, groups_of(rows), units)))
    women = found["sex", "F", "Edema"]
    assert (women["studies"], women["found"], women["missed"], women["invented"]) == (6, 3, 1, 1)
    assert (women["found_cases"], women["found_share"]) == (4, 0.75)
    assert (women["invented_cases"], women["invented_share"]) == (2, 0.5)
    men = found["sex", "M", "Edema"]
    assert (men["found"], men["missed"], men["invented"], men["invented_cases"]) == (0, 1, 2, 3)
    everybody = found["all", "all studies", "Edema"]
    assert (everybody["found"], everybody["missed"], everybody["invented"]) == (3, 2, 3)
    # Wilson's interval of 3 out of 5, by its formula.
    assert everybody["found_low"] == pytest.approx(0.2307, abs=1e-4)
    assert everybody["found_high"] == pytest.approx(0.8824, abs=1e-4)
    # Of 13 observations in 10 studies 125 are not stated.
    assert found["all", "all studies", TOGETHER]["invented_cases"] == 125
    fracture = found["all", "all studies", "Fracture"]
    assert fracture["found_share"] is None and fracture["found_low"] is None
    assert len(found) == 3 * len(ROWS)


def test_fewer_than_twenty_patients_are_few():
    for studies, patients, few in ((20, 20, False), (19, 19, True), (40, 19, True)):
        rows = [row(i) for i in range(studies)]
        units = Units.of([f"p{i % patients}" for i in range(studies)])
        labels = stated(np.ones(studies, bool), np.ones(studies, bool))
        found = cells(matrix_rows(error_matrix(labels, groups_of(rows), units)))
        edema = found["all", "all studies", "Edema"]
        assert (edema["found_cases"], edema["found_units"]) == (studies, patients)
        assert edema["found_few"] is few and FEW == 20
        assert edema["found_low"] < 1 == edema["found_high"]


def test_a_view_written_as_not_known_is_the_group_of_those_that_are_not():
    views = ["PA", "not known", None, "Not  known", "AP"]
    found = groups_of([row(i, view=view) for i, view in enumerate(views)]).columns()["view"]
    assert [(g.value, len(g.studies)) for g in found] == [("AP", 1), ("PA", 1), ("not known", 3)]


def test_subgroups_are_those_that_the_file_tells():
    ages = [3, 19.9, 20, 59, 79.9, 80, 101, None]
    rows = [row(i, age=age, view="PA", source=f"set {i % 12}") for i, age in enumerate(ages * 3)]
    found = groups_of(rows)
    columns = found.columns()
    assert {g.value: len(g.studies) for g in columns["age"]} == {
        "0-19": 6,
        "20-39": 3,
        "40-59": 3,
        "60-79": 3,
        "80 or more": 6,
        "not known": 3,
    }
    assert [g.value for g in columns["source"]][-1] == "4 others"
    assert len(columns["source"]) == MOST_VALUES + 1
    assert found.notes == (
        "not in the file of predictions: sex",
        "view: PA in all studies",
        "normal and abnormal references are not told: no labels",
        "source: 12 values; the 8 most frequent stand alone, the others together",
    )
    for groups in columns.values():
        together = np.sort(np.concatenate([g.studies for g in groups]))
        assert (together == np.arange(len(rows))).all()
    apart = groups_of(rows, np.arange(24) < 5).columns()["reference"]
    assert [(g.value, len(g.studies)) for g in apart] == [("normal", 5), ("abnormal", 19)]


def test_an_uncertain_mention_counts_as_each_policy_says():
    mentions = np.zeros((2, 3, 14), dtype=np.int64)
    mentions[0, :, EDEMA] = [Mention.UNCERTAIN, Mention.POSITIVE, Mention.NEGATIVE]
    mentions[1, :, EDEMA] = [Mention.POSITIVE, Mention.UNCERTAIN, Mention.UNCERTAIN]
    positive, negative = stated_observations({}, mentions, PRIMARY)
    assert positive.policy == "uncertain_positive" and positive.labeler == "chexpert_rules"
    assert positive.predicted[:, EDEMA].tolist() == [True, True, False]
    assert positive.expected[:, EDEMA].tolist() == [True, True, True]
    assert negative.predicted[:, EDEMA].tolist() == [False, True, False]
    assert negative.expected[:, EDEMA].tolist() == [True, False, False]
    first, _ = stated_observations({}, mentions, PRIMARY.replace("_positive", "_negative"))
    assert first.policy == "uncertain_negative"
    assert stated_observations({}, None, PRIMARY) == []


def test_the_labeler_is_the_primary_values():
    results = {
        name: label_f1(name, *np.full((2, 1, 14), mention), facts={})
        for name, mention in (("chexbert", Mention.POSITIVE), ("chexpert_rules", Mention.BLANK))
    }
    for primary, labeler, any_stated in (
        (PRIMARY, "chexpert_rules", False),
        ("chexbert/uncertain_positive/14/micro/f1", "chexbert", True),
        ("rouge/rougeL", "chexbert", True),
    ):
        labels = stated_observations(results, None, primary)[0]
        assert labels.labeler == labeler and labels.expected.any() == any_stated


def test_two_systems_are_compared_on_the_same_cases():
    rows = [row(i) for i in range(60)]
    expected = np.arange(60) < 40
    first = stated((np.arange(60) < 10) | (np.arange(60) >= 55), expected)
    second = stated((np.arange(60) >= 5) & (np.arange(60) < 30), expected)
    units = Units.of([r.patient for r in rows])
    changes = error_changes(first, second, groups_of(rows), units)
    edema = cells(change_rows(changes))["all", "all studies", "Edema"]
    # Of 40 with edema the second alone finds 20, the first alone 5.
    assert (edema["found_second_alone"], edema["found_first_alone"]) == (20, 5)
    assert edema["first_found_share"] == 0.25 and edema["second_found_share"] == 0.625
    assert edema["found_difference"] == pytest.approx(0.375)
    assert edema["found_difference_low"] < 0.375 < edema["found_difference_high"]
    from scipy.stats import binomtest

    assert edema["found_p"] == pytest.approx(binomtest(5, 25).pvalue)
    assert edema["found_verdict"] == "not shown"  # of so many tests
    # Of 20 without it the first alone invents 5.
    assert (edema["invented_second_alone"], edema["invented_first_alone"]) == (0, 5)
    assert edema["invented_difference"] == -0.25
    assert edema["invented_p"] == pytest.approx(2 / 2**5)
    invented = changes.cells[0][EDEMA].invented
    assert invented.direction == "better" and not invented.good


def test_what_is_tested_is_corrected_for_all_and_few_are_not_tested():
    rows = [row(i, sex="F" if i < 60 else "M") for i in range(75)]
    expected = np.ones(75, bool)
    first, second = stated(np.zeros(75, bool), expected), stated(np.arange(75) < 40, expected)
    units = Units.of([r.patient for r in rows])
    changes = error_changes(first, second, groups_of(rows), units)
    tested = [c for c in changes.all() if c.p is not None]
    assert changes.tested() == len(tested)
    assert [c.corrected for c in tested] == holm([c.p for c in tested])
    found = {r["value"]: r for r in change_rows(changes) if r["observation"] == "Edema"}
    assert found["F"]["found_verdict"] == found["all studies"]["found_verdict"] == "better"
    assert found["M"]["found_verdict"] == "few" and found["M"]["found_p"] is None
    back = error_changes(second, first, groups_of(rows), units)
    assert back.cells[0][EDEMA].found.verdict == "worse"


def test_studies_of_one_patient_are_swapped_together():
    rows = [row(i) for i in range(40)]
    expected = np.ones(40, bool)
    first, second = stated(np.zeros(40, bool), expected), stated(np.arange(40) < 2, expected)
    groups = groups_of(rows)
    apart = error_changes(first, second, groups, Units.of([f"p{i}" for i in range(40)]))
    together = error_changes(first, second, groups, Units.of([f"p{i // 2}" for i in range(40)]))
    assert apart.cells[0][EDEMA].found.p == 0.5  # two of two coins
    assert together.cells[0][EDEMA].found.p == 1.0  # one coin
    assert together.cells[0][EDEMA].found.units == 20


def evaluation(rows):
    return evaluate_predictions(Predictions(None, tuple(rows)), Scorer(["rouge"]), resamples=20)


def test_the_files_hold_every_cell_under_both_policies(tmp_path):
    rows = [row(i, "Edema.", "Possible edema.", sex="FM"[i % 2]) for i in range(4)]
    matrices = evaluation(rows).errors
    write_errors(matrices, tmp_path)
    held = json.loads((tmp_path / "errors.json").read_text())
    assert held["labeler"] == "chexpert_rules" and held["few_below"] == 20
    assert held["notes"][0] == "not in the file of predictions: age, view, source"
    with (tmp_path / "errors.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(held["cells"]) == 2 * 3 * len(ROWS)
    for policy, found, invented in (("uncertain_positive", 2, 0), ("uncertain_negative", 0, 2)):
        where = {"uncertain": policy, "subgroup": "sex", "value": "M", "observation": "Edema"}
        (cell,) = [c for c in held["cells"] if where.items() <= c.items()]
        (line,) = [c for c in lines if where.items() <= c.items()]
        assert (cell["found"], cell["invented"]) == (found, invented)
        assert (line["found"], line["invented"]) == (str(found), str(invented))
        assert line["found_share"] == ("1" if found else "")


def test_patients_are_told_apart_whatever_a_preset_resamples():
    rows = [row(i, "Edema.", "Edema.") for i in range(4)]
    preset = AppliedPreset("maira-2", load_preset("maira-2"))
    predictions = Predictions(None, tuple(replace(r, patient="p") for r in rows))
    found = evaluate_predictions(
        predictions, Scorer(["chexpert_rules"]), resamples=20, preset=preset
    )
    assert found.units.name == "study" and found.errors[0].units.name == "patient"


def test_reports_in_another_language_have_no_errors(tmp_path):
    rows = [
        Prediction("a", "Kein Erguss.", "Kein Erguss.", {}, None, None, "de"),
        Prediction("b", "Erguss.", "Kein Erguss.", {}, None, None, "de"),
    ]
    found = evaluation(rows)
    assert found.errors == ()
    write_errors(found.errors, tmp_path)
    held = json.loads((tmp_path / "errors.json").read_text())
    assert held["cells"] == [] and "no labeler knows the language" in held["notes"][0]
    assert (tmp_path / "errors.csv").read_text() == ""
