"""Boxes of a file of predictions: read, scored by patient, and told."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_rad.boxes import Box
from llava_rad.data import FindingBox, Study, StudyImage
from llava_rad.errors import DataError
from llava_rad.evaluation.boxes import boxes_of_report, boxes_of_study, phrases
from llava_rad.evaluation.evaluation import evaluate_predictions, to_json
from llava_rad.evaluation.output import evaluation_table
from llava_rad.evaluation.page import render_page
from llava_rad.evaluation.predictions import read_predictions
from llava_rad.metrics.score import Scorer
from llava_rad.reports.report import GroundedSentence, Report

ONE = {"x_min": 0.1, "y_min": 0.1, "x_max": 0.3, "y_max": 0.3}
FAR = {"x_min": 0.7, "y_min": 0.7, "x_max": 0.9, "y_max": 0.9}


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "predictions.jsonl"
    texts = {"prediction": "A nodule. No effusion.", "reference": "A nodule. No effusion."}
    lines = [{"id": str(i), "patient_id": f"p{i}", **texts, **row} for i, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_file_with_boxes_is_scored_beside_its_texts(tmp_path: Path) -> None:
    said = [{"sentence": "A nodule.", **ONE}]
    rows = [
        {"boxes": said, "reference_boxes": said},
        {"boxes": [FAR], "reference_boxes": [{"finding": "Nodule", **ONE}]},
        {"reference_boxes": [ONE]},
        {"boxes": None},
    ]
    predictions = read_predictions(written(tmp_path, rows))
    assert predictions.rows[0].boxes == (("A nodule.", Box(0.1, 0.1, 0.3, 0.3)),)
    assert predictions.rows[1].reference_boxes[0][0] == "Nodule"
    evaluation = evaluate_predictions(predictions, Scorer(["rouge"]), resamples=50)
    found = json.loads(json.dumps(to_json(evaluation), allow_nan=False))["boxes"]
    values = found["box_overlap"]["values"]
    assert values["overlap/precision"]["value"] == 0.5
    assert values["overlap/recall"]["value"] == pytest.approx(1 / 3)
    assert 0 <= values["overlap/recall"]["low"] <= 1 / 3 <= values["overlap/recall"]["high"] <= 1
    assert found["baselines"]["made_of"] == "the references themselves"
    assert set(found["baselines"]["values"]) == {
        *("random_place", "centre", "mean_box", "other_patient")
    }
    table = evaluation_table(evaluation)
    assert "boxes: 2 predicted in 2 studies, 3 true in 3 studies" in table
    assert "made of the references themselves\n" in table and "both/overlap" in table
    trained = evaluate_predictions(
        predictions, Scorer(["rouge"]), training_boxes=[Box(0, 0, 1, 1)], resamples=20
    )
    assert trained.boxes is not None and trained.boxes.baselines.fixed_from == "training"


def test_texts_without_boxes_say_nothing_of_them(tmp_path: Path) -> None:
    evaluation = evaluate_predictions(
        read_predictions(written(tmp_path, [{}, {"boxes": [ONE]}])), Scorer(["rouge"]), resamples=20
    )
    assert evaluation.boxes is None and "boxes" not in to_json(evaluation)
    told = "predictions have boxes and no reference has, so boxes are not judged"
    assert told in evaluation.warnings


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ("x", "boxes"),
        ({"x_min": 1}, "boxes are an object"),
        ([3], "a box is"),
        ([{**ONE, "x_max": 240}], "x_max of a box is 240"),
        ([{**ONE, "x_max": 10**400}], "x_max of a box is 1000"),
        ([{**ONE, "sentence": ["A."]}], "the sentence of a box is a list"),
    ],
)
def test_wrong_boxes_are_refused_by_line(tmp_path: Path, boxes: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        read_predictions(written(tmp_path, [{"boxes": [ONE]}, {"boxes": boxes}]))
    assert ":2" in str(error.value.where)


def test_a_table_has_them_as_json(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    boxes = json.dumps([ONE]).replace('"', '""')
    path.write_text(f'id,prediction,reference,boxes\n1,a,b,"{boxes}"\n2,a,b,\n')
    first, second = read_predictions(path).rows
    assert first.boxes[0][1] == Box(0.1, 0.1, 0.3, 0.3) and second.boxes == ()


def test_boxes_of_studies_reports_and_phrases() -> None:
    box = Box(0.1, 0.1, 0.3, 0.3)
    images = (
        StudyImage("l.png", "lateral", boxes=(FindingBox("Mass", box),)),
        StudyImage("f.png", "frontal", boxes=(FindingBox("Nodule", box, "A nodule."),)),
    )
    assert boxes_of_study(Study("s", "p", images=images)) == (("A nodule.", box),)
    assert boxes_of_study(Study("s", "p")) == ()
    place = GroundedSentence(0, 9, 0, ((10.0, 20.0, 30.0, 60.0),), 100, 200)
    report = Report("A nodule. Clear.", "m", 3, False, False, grounding=(place,))
    [(sentence, found)] = boxes_of_report(report.to_dict())
    assert sentence == "A nodule." and found == Box(0.1, 0.1, 0.3, 0.3)
    assert phrases(report.findings, [(sentence, found)]) == [("A nodule.", [found]), ("Clear.", ())]


def test_the_page_draws_predicted_and_true_boxes(tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "a.png")
    said = {"boxes": [{"sentence": "A <b> nodule.", **ONE}], "reference_boxes": [FAR]}
    rows = [{**said, "image": "a.png"}, {}]
    evaluation = evaluate_predictions(
        read_predictions(written(tmp_path, rows)), Scorer(["rouge"]), resamples=20
    )
    page = render_page(evaluation)
    assert page.count('class="frame predicted"') == page.count('class="frame true"') == 1
    assert "left:10.00%;top:10.00%;width:20.00%;height:20.00%" in page
    assert "predicted box: A &lt;b&gt; nodule." in page and "A <b> nodule" not in page
    assert "boxes: 1 predicted in 1 study, 1 true in 1 study" in page
