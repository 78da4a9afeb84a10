import numpy as np
import pytest

from llava_rad.metrics import chexpert_rules, label_report, label_reports
from llava_rad.observations import OBSERVATIONS, Mention

P, N, U, B = Mention.POSITIVE, Mention.NEGATIVE, Mention.UNCERTAIN, Mention.BLANK


@pytest.mark.parametrize(
    ("text", "observation", "expected"),
    [
        ("There is a small left pleural effusion.", "Pleural Effusion", P),
        ("No pleural effusion or pneumothorax.", "Pleural Effusion", N),
        ("No pleural effusion or pneumothorax.", "Pneumothorax", N),
        ("Negative for focal consolidation, effusion, or pneumothorax.", "Pneumothorax", N),
        ("No pneumothorax. Small effusion.", "Pleural Effusion", P),
        ("No pneumothorax, but there is a large effusion.", "Pleural Effusion", P),
        ("No focal consolidation with small effusion.", "Pleural Effusion", P),
        ("Possible small effusion.", "Pleural Effusion", U),
        ("An effusion cannot be excluded.", "Pleural Effusion", U),
        ("Previously seen effusion has resolved.", "Pleural Effusion", N),
        ("Small pericardial effusion.", "Pleural Effusion", B),
        ("There is blunting of the left costophrenic angle.", "Pleural Effusion", P),
        ("A pneumothorax is not seen.", "Pneumothorax", N),
        ("The heart is enlarged.", "Cardiomegaly", P),
        ("The heart is not enlarged.", "Cardiomegaly", N),
        ("Heart size is normal.", "Cardiomegaly", N),
        ("Heart size is at the upper limits of normal.", "Cardiomegaly", N),
        ("Borderline heart size.", "Cardiomegaly", U),
        ("MILD CARDIOMEGALY.", "Cardiomegaly", P),
        ("Heart size mildly enlarged, stable mediastinal contours.", "Cardiomegaly", P),
        ("Stable mediastinal contours, heart enlarged.", "Enlarged Cardiomediastinum", B),
        ("Widened mediastinum.", "Enlarged Cardiomediastinum", P),
        ("The cardiomediastinal silhouette is within normal limits.", "Cardiomegaly", N),
        ("Bibasilar atelectasis.", "Atelectasis", P),
        ("Opacity, atelectasis versus infiltrate.", "Atelectasis", U),
        ("Complete collapse of the left lung.", "Atelectasis", P),
        ("Pulmonary vascular congestion.", "Edema", P),
        ("Soft tissue edema of the ankle.", "Edema", B),
        ("Opacity concerning for pneumonia.", "Pneumonia", U),
        ("Opacity concerning for pneumonia.", "Lung Opacity", P),
        ("No focal airspace disease to suggest pneumonia.", "Pneumonia", N),
        ("A 6 mm nodule in the right upper lobe.", "Lung Lesion", P),
        ("Mass effect on the trachea.", "Lung Lesion", B),
        ("Biapical pleural thickening.", "Pleural Other", P),
        ("Healed rib fracture.", "Fracture", P),
        ("No acute fracture.", "Fracture", N),
        ("Bony structures are intact.", "Fracture", N),
        ("Right PICC line tip in the SVC.", "Support Devices", P),
        ("Interval removal of the chest tube.", "Support Devices", N),
        ("The lungs are clear.", "Lung Opacity", N),
    ],
)
def test_mentions(text, observation, expected):
    assert label_report(text)[OBSERVATIONS.index(observation)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The lungs are clear. No effusion.", P),
        ("Dual lead pacemaker. The lungs are clear.", P),
        ("Small effusion.", B),
        ("Possible pneumonia.", B),
        ("", B),
        ("  \n ", B),
    ],
)
def test_no_finding_is_the_absence_of_the_others_but_devices(text, expected):
    assert label_report(text)[-1] == expected


def test_the_strongest_mention_of_a_report_counts():
    effusion = OBSERVATIONS.index("Pleural Effusion")
    assert label_report("No effusion. Possible effusion.")[effusion] == U
    assert label_report("Possible effusion. Left effusion.")[effusion] == P


def test_a_wrapped_line_does_not_end_a_sentence():
    pneumothorax = OBSERVATIONS.index("Pneumothorax")
    assert label_report("There is no\npneumothorax.")[pneumothorax] == N


def test_labels_come_in_the_order_of_the_texts():
    labels = label_reports(["Small effusion.", "No effusion.", "Small effusion."])
    assert labels.shape == (3, 14)
    assert (labels[0] == labels[2]).all()
    assert (labels[0] != labels[1]).any()


def test_a_metric_of_its_own_name():
    result = chexpert_rules(["Small effusion.", ""], ["Large effusion.", "Clear lungs."])
    assert result.metric == "chexpert_rules"
    assert "chexpert-rules" in result.facts["scorer"]
    assert result.values["uncertain_positive/class/Pleural Effusion/f1"] == 1.0
    np.testing.assert_array_equal(result.per_pair["uncertain_positive/14/exact_match"], [1.0, 0.0])


@pytest.mark.parametrize(
    "text", ["\n" * 100_000, "a" * 100_000, " " * 100_000, "no, " * 30_000, "a:" * 50_000]
)
def test_no_text_costs_the_square_of_its_length(text):
    # In a minute the square of 100,000 steps is not done.
    assert len(label_report(text)) == 14


def test_an_endless_text_without_punctuation_is_labelled():
    labels = label_report("heart lungs prominent pulmonary mediastinum " * 2000)
    assert len(labels) == 14
