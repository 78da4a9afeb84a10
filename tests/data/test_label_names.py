"""Labels that differ only in capitals are one, and what contradicts is not stated."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import Study, convert, load_manifest
from llava_rad.data.label_names import join_labels


def study(name: str, **labels: float | None) -> Study:
    return Study(name, name, labels={key.replace("_", " "): v for key, v in labels.items()})


def test_chexpert_s_spelling_wins_and_otherwise_the_most_frequent() -> None:
    joined = join_labels(
        [
            study("a", pleural_effusion=1.0, nodulo=1.0, Mass=0.0),
            study("b", pleural_effusion=0.0, Nodulo=1.0),
            study("c", Pleural_Effusion=1.0, Nodulo=0.0),
        ]
    )
    assert joined.spellings == {"pleural effusion": "Pleural Effusion", "nodulo": "Nodulo"}
    assert [dict(s.labels) for s in joined.studies] == [
        {"Pleural Effusion": 1.0, "Nodulo": 1.0, "Mass": 0.0},
        {"Pleural Effusion": 0.0, "Nodulo": 1.0},
        {"Pleural Effusion": 1.0, "Nodulo": 0.0},
    ]
    assert joined.contradicting == []


def test_one_study_that_says_both() -> None:
    joined = join_labels([study("a", Edema=1.0, edema=0.0), study("b", Edema=None, edema=1.0)])
    assert [dict(s.labels) for s in joined.studies] == [{"Edema": None}, {"Edema": 1.0}]
    assert joined.contradicting == ["a"]


def test_names_that_differ_in_more_stay_apart() -> None:
    studies = [study("a", Edema=1.0, Oedema=1.0)]
    assert join_labels(studies).studies == studies


def test_a_conversion_notes_it(tree: Callable[..., Path]) -> None:
    header = "ImageID,StudyID,PatientID,Projection,Report,Labels\n"
    rows = "a.png,1,p,PA,x,\"['Nodulo', 'nodulo']\"\nb.png,2,q,PA,x,['Nodulo']\n"
    root = tree({"PADCHEST_x.csv": header + rows, "a.png": "", "b.png": ""})
    report = convert("padchest", root, root / "m.jsonl")
    assert report.noted["label 'nodulo' taken as 'Nodulo'"] == ["padchest"]
    first, second = load_manifest(root / "m.jsonl")
    assert first.labels == second.labels == {"Nodulo": 1.0}


def test_a_manifest_made_by_hand_says_so_when_it_is_read(tmp_path: Path) -> None:
    rows = [
        {"study_id": name, "patient_id": name, "labels": {label: 1}}
        for name, label in (("a", "Edema"), ("b", "EDEMA"))
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="'EDEMA' as 'Edema'"):
        studies = load_manifest(tmp_path / "m.jsonl")
    assert [list(s.labels) for s in studies] == [["Edema"], ["Edema"]]
