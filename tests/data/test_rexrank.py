"""ReXrank's and ReXGradient's files of studies."""

import json
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, select_targets
from llava_rad.data.rexrank import ROW, read
from llava_rad.errors import DataError

IU = {
    "CXR1_IM-0001": {
        "key_image_path": "CXR1_IM-0001/1.png",
        "image_path": ["CXR1_IM-0001/0.png", "CXR1_IM-0001/1.png"],
        "report": "Findings: Clear XXXX.\nNo effusion. Impression: Normal.",
        "section_findings": "Clear XXXX.\nNo effusion.",
        "section_impression": "Normal.",
        "split": "test",
        "frontal_lateral": ["Lateral", "Frontal"],
        "context": "Indication: Chest pain, dyspnea Comparison: None.",
    }
}
PLUS = {
    "patient64620_study1": {
        "image_path": ["valid/patient64620/study1/view1_frontal.png"],
        "key_image_path": "valid/patient64620/study1/view1_frontal.png",
        "context": "Age:77.0.Gender:F.Indication:nanComparison: None.",
        "section_findings": float("nan"),
        "section_impression": "\n1. SINGLE VIEW.",
        "frontal_lateral": ["Frontal"],
        "age": 77.0,
        "sex": "Female",
    }
}
GRADIENT = {
    "pABC_aDEF_st1": {
        "ImagePath": ["../deid_png/GRDN1/pABC/0.png", "../deid_png/GRDN1/pABC/1.png"],
        "ImageViewPosition": ["POSTERO_ANTERIOR", "LATERAL"],
        "Findings": "Lungs are clear.",
        "Impression": "No acute disease.",
        "Indication": "Cough.",
        "Comparison": "None.",
        "PatientSex": "M",
        "PatientAge": "045Y",
    }
}


def test_iu_xray(tree):
    root = tree(
        {
            "ReXRank_IUXray_test.json": json.dumps(IU),
            "images/CXR1_IM-0001/0.png": "",
            "images/CXR1_IM-0001/1.png": "",
        }
    )
    (study,) = read(root, ConversionLog())
    assert [image.view for image in study.images] == ["frontal", "lateral"]
    assert study.images[0].path.endswith("CXR1_IM-0001/1.png")
    assert (study.split, study.patient_id) == ("test", "CXR1_IM-0001")
    assert study.findings == "Clear XXXX.\nNo effusion."  # the leaderboard's reference, untouched
    assert study.indication == "Chest pain, dyspnea"
    assert json.loads(study.extra[ROW]) == IU["CXR1_IM-0001"]


def test_chexpert_plus_without_findings(tree):
    root = tree(
        {
            "ReXRank_CheXpertPlus.json": json.dumps(PLUS),
            "PNG/valid/patient64620/study1/view1_frontal.png": "",
        }
    )
    (study,) = read(root, ConversionLog())
    assert (study.findings, study.split, study.patient_id) == (None, "test", "patient64620")
    assert (study.age, study.sex, study.indication) == (77.0, "F", None)
    selection = select_targets([study], section="findings_and_impression", headed=True)
    assert selection.texts == ["Findings: None Impression: \n1. SINGLE VIEW."]


@pytest.mark.parametrize(
    "views",
    [["Lateral"], ["Lateral", float("nan")], [None, None], ["left lateral", "Erect"], []],
)
def test_the_key_image_comes_first_where_its_view_is_not_known(tree, views):
    row = {**IU["CXR1_IM-0001"], "frontal_lateral": views}
    row |= {"image_path": ["side.png", "front.png"], "key_image_path": "front.png"}
    files = {"side.png": "", "front.png": "", "a.json": json.dumps({"s": row})}
    (study,) = read(tree(files), ConversionLog())
    assert [Path(image.path).name for image in study.images] == ["front.png", "side.png"]
    assert study.images[0].view == "frontal"


def test_sections_without_words_are_no_targets(tree):
    row = {**PLUS["patient64620_study1"], "section_findings": "N/A", "section_impression": ""}
    root = tree(
        {
            "ReXRank_CheXpertPlus.json": json.dumps({"patient64620_study1": row}),
            "PNG/valid/patient64620/study1/view1_frontal.png": "",
        }
    )
    (study,) = read(root, ConversionLog())
    assert (study.findings, study.impression) == (None, None)
    with pytest.raises(DataError, match="no study has"):
        select_targets([study], section="findings_and_impression", headed=True)


def test_rexgradient(tree):
    root = tree(
        {
            "metadata/valid_metadata_view_position.json": json.dumps(GRADIENT),
            "deid_png/GRDN1/pABC/0.png": "",
        }
    )
    log = ConversionLog()
    (study,) = read(root, log)
    assert (study.split, study.patient_id) == ("validation", "pABC")
    assert (study.age, study.sex, study.indication) == (45.0, "M", "Cough.")
    assert [image.view for image in study.images] == ["frontal"]
    assert log.left_out == {"image_missing": ["../deid_png/GRDN1/pABC/1.png"]}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.txt": ""}, "no JSON file"),
        ({"a.json": "{}", "b.json": "{}"}, "several JSON files: a.json, b.json"),
        ({"a.json": '{"s1": 5}'}, "not an object"),
        ({"a.json": '{"s1": {"image_path": 5}}'}, "image_path of study 's1'"),
    ],
)
def test_wrong_folders(tree, files, says):
    with pytest.raises(DataError, match=says):
        list(read(tree(files), ConversionLog()))
