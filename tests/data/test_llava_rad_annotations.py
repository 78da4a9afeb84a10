"""The LLaVA-Rad annotation files: which rows are kept, and how the prompts are worded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, check_studies
from llava_rad.data.llava_rad_annotations import prompt, read
from llava_rad.errors import DataError

IMAGE = "p10/p10003502/s50084553/{}.jpg"


def row(name: str, **changes: object) -> dict:
    findings = changes.pop("findings", "Large right pleural effusion.")
    return {
        "id": "10003502_50084553",
        "image": f"mimic/{IMAGE.format(name)}",
        "generate_method": "gpt4",
        "reason": "___ year old woman\nwith dyspnea",
        "impression": None,
        "indication": None,
        "history": None,
        "view": "AP",
        "orientation": "Erect",
        "chexpert_labels": {"Edema": 1.0, "Cardiomegaly": -1.0, "Fracture": float("nan")},
        "conversations": [
            {"from": "human", "value": "<image>\nDescribe the findings of the chest x-ray.\n"},
            {"from": "gpt", "value": findings},
        ],
        **changes,
    }


ROWS = [
    row("a"),
    row("a", generate_method="rule-based", view="PA", reason=None),
    row("b", view="LATERAL"),
    row("c", view=float("nan")),
    row("d", findings=None),
    row("e", findings=float("nan")),
    row("gone"),
    {"id": "x"},
]


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    files = {f"files/{IMAGE.format(name)}": b"image" for name in "abcde"}
    content = json.dumps(ROWS)
    test = content.replace("10003502", "20003502").replace("p10/", "p20/")
    files |= {name.replace("1000", "2000").replace("p10/", "p20/"): b"" for name in list(files)}
    return tree(
        files
        | {
            "chat_train_MIMIC_CXR_all_gpt4extract_rulebased_v1.json": content,
            "chat_test_MIMIC_CXR_all_gpt4extract_rulebased_v1.json": test,
        }
    )


def test_train_keeps_frontal_rows_with_findings_and_test_the_rule_based_ones(root: Path) -> None:
    log = ConversionLog()
    studies = list(read(root, log))
    check_studies(studies)
    kept = [(s.split, s.images[0].view_position, s.extra["generate_method"]) for s in studies]
    assert kept == [
        ("test", "PA", "rule-based"),
        ("train", "AP", "gpt4"),
        ("train", "PA", "rule-based"),
    ]
    assert {reason: len(ids) for reason, ids in log.left_out.items()} == {
        "test_row_not_rule_based": 6,
        "not_frontal": 2,
        "no_findings": 2,
        "image_missing": 1,
        "row lacks 'image'": 2,
    }


def test_a_row_as_a_study(root: Path) -> None:
    study = list(read(root, ConversionLog()))[1]
    assert study.patient_id == "p10003502"
    assert study.images[0].path == str(root / "files" / IMAGE.format("a"))
    assert study.images[0].view == "frontal"
    assert study.findings == "Large right pleural effusion."
    assert (study.labels["Edema"], study.labels["Cardiomegaly"], study.labels["Fracture"]) == (
        1.0,
        -1.0,
        None,
    )


def test_one_file_with_its_split_named(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="split="):
        list(read(path, ConversionLog()))
    images = str(root / "files")
    studies = list(read(path, ConversionLog(), images=images, split="dev"))
    assert {study.split for study in studies} == {"validation"}


def test_prompts_are_that_project_s(root: Path) -> None:
    with_reason, without = list(read(root, ConversionLog()))[1:]
    assert with_reason.extra["prompt"] == (
        "Provide a description of the findings in the radiology image given the following "
        "indication: ___ year old woman with dyspnea"
    )
    assert without.extra["prompt"] == (
        "Provide a description of the findings in the radiology image."
    )


def test_the_prompt_of_the_published_checkpoint(shared_parity: Path) -> None:
    expected = json.loads((shared_parity / "llava_rad_checkpoint" / "expected.json").read_text())
    assert f"<image>\n{prompt('cough')}" == expected["question"]


def test_a_file_that_is_no_list(tmp_path: Path) -> None:
    path = tmp_path / "chat_train.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="expected a list"):
        list(read(path, ConversionLog()))
