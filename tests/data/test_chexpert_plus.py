"""CheXpert Plus: one study of several images and report versions."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.chexpert_plus import read

COLUMNS = (
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
    "age",
    "sex",
    "race",
    "ethnicity",
    "interpreter_needed",
    "insurance_type",
    "recent_bmi",
    "deceased",
    "split",
)

REPORT = (
    "NARRATIVE:\nChest 2 Views, {date}\n\nHISTORY: 61 years Female, cough\n\n"
    "COMPARISON: None.\n\nIMPRESSION:\n\n1.CLEAR LUNGS ON {date}.\n\n2.NO EFFUSION.\n\n"
    "SUMMARY: 1-NORMAL\n"
)


def row(path: str, order: int, date: str = "8-8-2005", **changes: str) -> dict[str, str]:
    values = {
        "path_to_image": path,
        "frontal_lateral": "Lateral" if "lateral" in path else "Frontal",
        "ap_pa": "" if "lateral" in path else "AP",
        "deid_patient_id": path.split("/")[1],
        "patient_report_date_order": str(order),
        "report": REPORT.format(date=date),
        "section_history": "61 years Female, cough",
        "section_impression": f"1.CLEAR LUNGS ON {date}.\n\n2.NO EFFUSION.",
        "age": "61.0",
        "sex": "Female",
        "split": path.split("/")[0],
    }
    return dict.fromkeys(COLUMNS, "") | values | changes


def table(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


ROWS = [
    # The lateral row comes first, with the other anonymisation of the date.
    row("train/patient00001/study1/view2_lateral.jpg", 1, "9-9-2006"),
    row("train/patient00001/study1/view1_frontal.jpg", 1),
    row("train/patient00001/study9/view1_frontal.jpg", 0, section_findings="CLEAR."),
    row("valid/patient00002/study1/view1_frontal.jpg", 1),
    row("train/patient00003/study1/view1_frontal.jpg", 1),
    row("train/patient00004/study1/view1_frontal.jpg", 1, deid_patient_id=""),
]


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    labels = {"path_to_image": "train/patient00001/study1/view1_frontal.jpg", "Edema": 0.0}
    files = {f"PNG/{name['path_to_image']}".replace(".jpg", ".png"): "" for name in ROWS}
    files.pop("PNG/train/patient00003/study1/view1_frontal.png")
    return tree(
        {
            **files,
            "df_chexpert_plus_240401.csv": table(ROWS),
            "chexbert_labels/report_fixed.json": json.dumps(labels) + "\n",
        }
    )


def test_case_c42_one_study_of_two_images_and_two_report_versions(root: Path) -> None:
    log = ConversionLog()
    studies = {study.study_id: study for study in read(root, log)}
    check_studies(studies.values())
    study = studies["train/patient00001/study1"]
    assert [image.view for image in study.images] == ["frontal", "lateral"]
    assert study.impression == "CLEAR LUNGS ON 8-8-2005. NO EFFUSION."
    assert log.noted["report_versions_differ"] == ["train/patient00001/study1"]
    assert study.labels["Edema"] == 0


def test_fields_splits_and_priors(root: Path) -> None:
    log = ConversionLog()
    studies = {study.study_id: study for study in read(root, log)}
    study = studies["train/patient00001/study1"]
    assert (study.patient_id, study.split, study.sex, study.age) == (
        "patient00001",
        "train",
        "F",
        61,
    )
    assert study.indication == "61 years Female, cough"
    assert study.comparison == "None."
    assert study.findings is None
    assert study.extra["no_findings_reason"] == "findings_only_in_impression"
    assert study.prior is not None
    assert (study.prior.study_id, study.prior.findings) == ("train/patient00001/study9", "CLEAR.")
    assert studies["train/patient00001/study9"].prior is None
    assert studies["valid/patient00002/study1"].split == "validation"
    assert log.left_out == {
        "image_missing": ["train/patient00003/study1/view1_frontal.jpg"],
        "no_image": ["train/patient00003/study1"],
        "no deid_patient_id": ["df_chexpert_plus_240401.csv:87"],
    }
