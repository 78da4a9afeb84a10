import json

import numpy as np
import pytest

from llava_rad.errors import MetricError
from llava_rad.evaluation import (
    evaluate_predictions,
    evaluation_table,
    pair_to_json,
    read_predictions,
    render_page,
    to_json,
)
from llava_rad.evaluation.predictions import given_predictions
from llava_rad.metrics import Scorer

NORMAL = "No acute cardiopulmonary process."
ABNORMAL = [
    "There is a small left pleural effusion.",
    "The heart is enlarged.",
    "Right upper lobe nodule.",
    "Bibasilar atelectasis.",
    "Mild pulmonary edema.",
    "Small right pneumothorax.",
    "Healed rib fracture.",
    "Left lower lobe consolidation.",
]
METRICS = ["bleu_coco", "rouge", "cider", "chexpert_rules"]


def evaluate(tmp_path, predictions, references, metrics=METRICS, *, more=lambda i: {}, **options):
    path = tmp_path / "predictions.jsonl"
    rows = [
        {"id": f"study{i}", "prediction": p, "reference": r, **more(i)}
        for i, (p, r) in enumerate(zip(predictions, references, strict=True))
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return evaluate_predictions(read_predictions(path), Scorer(metrics), resamples=50, **options)


def strict_json(evaluation):
    return json.loads(json.dumps(to_json(evaluation), allow_nan=False))


@pytest.fixture
def one_report(tmp_path):
    return evaluate(tmp_path, [NORMAL] * 20, [NORMAL] * 12 + ABNORMAL)


def test_one_report_for_every_film_is_noticed(one_report):
    found = strict_json(one_report)
    assert one_report.distinct == 1
    assert found["predictions"]["distinct_predictions"] == 1
    assert any("hardly vary: 1 distinct among 20" in w for w in found["warnings"])
    values = found["metrics"]["chexpert_rules"]["values"]
    for name in ("Pleural Effusion", "Cardiomegaly", "Edema", "Fracture"):
        assert values[f"uncertain_positive/class/{name}/recall"]["value"] == 0
        assert values[f"uncertain_positive/class/{name}/support"]["value"] == 1
    apart = found["by_reference"]
    assert apart["count"] == {"normal": 12, "abnormal": 8}
    assert apart["values"]["normal"]["rouge/rougeL"] == 1
    assert apart["values"]["abnormal"]["rouge/rougeL"] < 0.2
    # The baseline is as good: nothing was learned from the image.
    fixed = found["baselines"]["fixed_report"]["values"]["rouge/rougeL"]
    assert fixed == {
        "value": pytest.approx(found["metrics"]["rouge"]["values"]["rougeL"]["value"]),
        "text": NORMAL,
    }
    assert "recall" in render_page(one_report) and "hardly vary" in render_page(one_report)


def test_each_number_stands_with_what_it_depends_on(one_report):
    for metric in strict_json(one_report)["metrics"].values():
        assert {"definition", "scorer", "section", "count", "notes", "values"} <= set(metric)
    found = strict_json(one_report)
    assert len(found["predictions"]["sha256"]) == 64
    assert found["versions"]["llava_rad"] and found["versions"]["sacrebleu"]


def test_intervals_hold_the_value(one_report):
    for metric in strict_json(one_report)["metrics"].values():
        for numbers in metric["values"].values():
            assert numbers["low"] <= numbers["high"]
    rouge = strict_json(one_report)["metrics"]["rouge"]["values"]["rougeL"]
    assert rouge["low"] < rouge["value"] < rouge["high"]


def test_the_files_labels_tell_normal_from_abnormal(tmp_path):
    labels = [{"No Finding": 1}, {"Edema": 1}, {"Edema": 0, "Support Devices": 1}, {"Edema": -1}]
    evaluation = evaluate(
        tmp_path, [NORMAL] * 4, [NORMAL] * 4, more=lambda i: {"labels": labels[i]}
    )
    assert list(evaluation.normal) == [True, False, True, False]
    assert evaluation.normal_by == "the file's labels"


def test_baselines_by_training_reports_and_features(tmp_path):
    references = ["small effusion", "large nodule", "clear lungs"]
    training = {"t0": "clear lungs", "t1": "small effusion", "t2": "large nodule"}
    features = {f"study{i}": np.eye(3)[i] for i in range(3)}
    features |= {"t0": np.eye(3)[2], "t1": np.eye(3)[0], "t2": np.eye(3)[1]}
    evaluation = evaluate(tmp_path, ["x"] * 3, references, training=training, features=features)
    baselines = evaluation.baselines.headlines()
    assert baselines["nearest_training_report"]["rouge/rougeL"] == 1.0
    assert baselines["other_patient"]["rouge/rougeL"] == 0.0
    assert evaluation.baselines.fixed_from == "training reports"
    assert baselines["fixed_report"]["rouge/rougeL"] == pytest.approx(1 / 3)

    del features["study1"]
    with pytest.raises(MetricError, match="study1"):
        evaluate(tmp_path, ["x"] * 3, references, training=training, features=features)
    with pytest.raises(MetricError, match="training report"):
        evaluate(tmp_path, ["x"] * 3, references, features={f"study{i}": [1.0] for i in range(3)})


def test_marks_of_boxes_in_predictions_are_told(tmp_path):
    texts = ["<obj>A nodule.<box><x1><y2><x3><y4></box></obj>", "No effusion, HR < 60."]
    evaluation = evaluate_predictions(given_predictions(texts, texts), Scorer(["rouge"]))
    assert [w for w in evaluation.warnings if "1 of 2 predictions holds marks of boxes" in w]


def test_other_patients_respect_patient_ids(tmp_path):
    references = ["a b c"] * 3 + ["x y z"]
    evaluation = evaluate(
        tmp_path,
        references,
        references,
        more=lambda i: {"patient_id": "first" if i < 3 else "second"},
    )
    assert evaluation.baselines.headlines()["other_patient"]["rouge/rougeL"] == 0.0
    alone = evaluate(tmp_path, ["a"] * 2, ["a"] * 2, more=lambda i: {"patient_id": "p"})
    assert "other_patient" not in alone.baselines.headlines()


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([""], ["no effusion"]),
        (["", " ", "\n"], ["a", "b", "c"]),
        (["", "x"], ["no effusion", " "]),
        (["x"], ["x"]),
        (["肺野清晰"] * 3, ["心影增大", "正常", "肺野清晰"]),
        (["a"] * 2, ["word " * 10_000, "b"]),
    ],
)
def test_no_input_gives_nan(tmp_path, predictions, references):
    evaluation = evaluate(tmp_path, predictions, references)
    strict_json(evaluation)
    for i in range(len(predictions)):
        json.dumps(pair_to_json(evaluation, i), allow_nan=False)
    assert "nan" not in render_page(evaluation).lower().replace("nano", "")


def test_one_pair_has_no_interval(tmp_path):
    evaluation = evaluate(tmp_path, ["clear lungs"], ["clear lungs"])
    numbers = strict_json(evaluation)["metrics"]["rouge"]["values"]["rougeL"]
    assert numbers == {"value": 1, "low": None, "high": None, "median": None}


def test_other_languages_are_not_labelled(tmp_path):
    spanish = ["sin derrame pleural en el pulmón", "corazón de tamaño normal sin cambios"]
    told = evaluate(tmp_path, spanish, spanish, more=lambda i: {"language": "es"})
    assert told.mentions is None and told.normal is None
    assert "chexpert_rules" in told.scores.left_out
    assert strict_json(told)["by_reference"]["values"] == {}
    assert pair_to_json(told, 0)["observations"] == {}
    assert "English alone" in render_page(told)

    untold = evaluate(tmp_path, spanish, spanish)
    assert any("not read as English" in warning for warning in untold.warnings)


def test_one_line_for_each_pair(one_report):
    first, last = pair_to_json(one_report, 0), pair_to_json(one_report, 19)
    assert first["id"] == "study0" and first["normal_reference"]
    assert first["values"]["rouge/rougeL"] == 1
    assert first["observations"] == {"matched": ["No Finding"], "missed": [], "invented": []}
    assert last["observations"]["missed"] == ["Consolidation"]
    assert last["observations"]["invented"] == ["No Finding"]
    assert last["words"] == {"prediction": 4, "reference": 4}


def test_intervals_resample_patients_where_the_file_names_them(tmp_path):
    references = [f"nodule {i} of the lung" for i in range(12) for _ in range(10)]
    predictions = [text if i // 10 % 2 else "clear" for i, text in enumerate(references)]
    named = evaluate(
        tmp_path, predictions, references, more=lambda i: {"patient_id": f"p{i // 10}"}
    )
    found = strict_json(named)["intervals"]
    assert (found["unit"], found["units"]) == ("patient", 12)
    assert "resamples of 12 patients" in evaluation_table(named)
    assert "12 patients" in render_page(named)
    unnamed = evaluate(tmp_path, predictions, references)
    assert strict_json(unnamed)["intervals"]["unit"] == "study"
    assert "120 studies (no patient ids)" in evaluation_table(unnamed)
    assert any("no patients are named" in warning for warning in unnamed.warnings)
    widths = [
        e.intervals["rouge"]["rougeL"].high - e.intervals["rouge"]["rougeL"].low
        for e in (named, unnamed)
    ]
    assert widths[0] > 2 * widths[1]


def test_the_primary_value_stands_first_and_is_always_there(tmp_path):
    evaluation = evaluate(tmp_path, ABNORMAL, ABNORMAL, metrics=["rouge", "cider"])
    assert next(iter(evaluation.shown)) == "chexpert_rules"
    assert evaluation.shown["chexpert_rules"] == ("uncertain_positive/14/micro/f1",)
    table = evaluation_table(evaluation).split("---\n")[1].splitlines()
    assert table[0].startswith("chexpert_rules") and "micro F1, 14 observations" in table[0]
    assert strict_json(evaluation)["primary"] == "chexpert_rules/uncertain_positive/14/micro/f1"
    assert "primary metric" in render_page(evaluation)
    other = evaluate(tmp_path, ABNORMAL, ABNORMAL, primary="cider/cider")
    assert next(iter(other.shown)) == "cider" and "uncertain_negative/5/macro/f1" in "".join(
        other.shown["chexpert_rules"]
    )


def test_both_policies_for_uncertain_mentions_are_shown_side_by_side(tmp_path):
    texts = ["Possible pneumonia.", "Small effusion.", "Small effusion."]
    evaluation = evaluate(tmp_path, ["Pneumonia.", *texts[1:]], texts)
    shown = evaluation.shown["chexpert_rules"]
    assert shown[:2] == ("uncertain_positive/14/micro/f1", "uncertain_negative/14/micro/f1")
    rows = [row for row in evaluation_table(evaluation).splitlines() if "micro F1, 14" in row]
    # Pneumonia is matched if uncertain counts as positive, else invented: 3 of 3, 2 of 2 + 1.
    first, second = (row for row in rows if row.startswith("chexpert_rules"))
    assert "uncertain positive" in first and "1.0000" in first
    assert "uncertain negative" in second and "0.8000" in second
    page = render_page(evaluation)
    assert '<th class="n" colspan="4" scope="colgroup">uncertain negative</th>' in page
    assert "14 observations, uncertain negative" in page


def test_blank_references_are_an_error(tmp_path):
    with pytest.raises(MetricError, match="all references are blank"):
        evaluate(tmp_path, ["no effusion"] * 2, ["", " \n"])


def test_a_section_that_is_none_is_refused(tmp_path):
    with pytest.raises(MetricError, match=r"no section 'nonsense'.*findings, impression"):
        evaluate(tmp_path, [NORMAL] * 2, [NORMAL] * 2, ["rouge"], section="nonsense")


def test_the_files_own_section_counts_and_another_is_said(tmp_path):
    said = {"more": lambda i: {"section": "impression"}}
    found = evaluate(tmp_path, [NORMAL] * 2, [NORMAL] * 2, ["rouge"], **said)
    assert found.section == "impression" and not any("section" in w for w in found.warnings)
    found = evaluate(tmp_path, [NORMAL] * 2, [NORMAL] * 2, ["rouge"], section="findings", **said)
    assert "the file says that its references are impression, not findings" in found.warnings


@pytest.mark.parametrize("mark", ["___", "XXXX", "<###>", "[**Name**]"])
def test_marks_in_generated_texts_are_counted(tmp_path, mark):
    texts = [f"Seen by {mark}.", NORMAL, NORMAL]
    found = evaluate(tmp_path, texts, [NORMAL] * 3, ["rouge"])
    assert any("1 of 3 predictions holds de-identification marks" in w for w in found.warnings)
