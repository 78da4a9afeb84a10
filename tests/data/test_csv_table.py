"""Any CSV table, its columns named by options."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog
from llava_rad.data.csv_table import read
from llava_rad.errors import DataError

TABLE = """file,exam,subject,set,position,text,gender,years,Edema,Mass
a.png,e1,p1,train,L,"INDICATION: Cough. FINDINGS: Clear.",F,40,1,
b.png,e1,p1,train,PA,"INDICATION: Cough. FINDINGS: Clear.",F,40,1,
c.png,e2,p2,val,PA,IMPRESSION: Normal.,M,x,0,maybe
gone.png,e3,p3,test,PA,,M,50,0,0
,e4,p4,test,PA,,M,50,0,0
"""
OPTIONS = {
    "image": "file",
    "study": "exam",
    "patient": "subject",
    "split": "set",
    "view": "position",
    "report": "text",
    "sex": "gender",
    "age": "years",
    "labels": "Edema, Mass",
}


@pytest.fixture
def root(tree: Callable[..., Path]) -> Path:
    return tree({"table.csv": TABLE, "a.png": "", "b.png": "", "c.png": ""})


def test_named_columns(root: Path) -> None:
    log = ConversionLog()
    first, second = read(root, log, **OPTIONS)
    assert (first.study_id, first.patient_id, first.split) == ("e1", "p1", "train")
    assert [(Path(i.path).name, i.view) for i in first.images] == [
        ("b.png", "frontal"),
        ("a.png", "lateral"),
    ]
    assert (first.indication, first.findings) == ("Cough.", "Clear.")
    assert (first.sex, first.age, first.labels) == ("F", 40, {"Edema": 1.0, "Mass": None})
    assert (second.split, second.age, second.findings) == ("validation", None, None)
    assert second.extra["no_findings_reason"] == "findings_only_in_impression"
    assert first.source == "table"
    assert log.left_out == {"image_missing": ["gone.png"], "no file": ["table.csv:6"]}
    assert log.noted["label Mass is not a number"] == ["e2"]


def test_default_names_and_missing_columns(tree: Callable[..., Path]) -> None:
    root = tree({"t.csv": 'image,findings\nx.png,"1. Clear.\n2. No effusion."\n', "x.png": ""})
    (study,) = read(root / "t.csv", ConversionLog())
    assert study.findings == "Clear. No effusion."
    assert study.study_id == study.patient_id == "x.png"
    assert study.split is None


def test_a_section_column_wins_over_the_report(tree: Callable[..., Path]) -> None:
    text = "image,report,findings\nx.png,FINDINGS: Old. IMPRESSION: Normal.,New.\n"
    (study,) = read(tree({"t.csv": text, "x.png": ""}), ConversionLog())
    assert (study.findings, study.impression) == ("New.", "Normal.")


def test_sections_given_apart_explain_missing_findings(tree: Callable[..., Path]) -> None:
    text = "image,report,impression\nx.png,,Normal.\n"
    (study,) = read(tree({"t.csv": text, "x.png": ""}), ConversionLog())
    assert study.extra["no_findings_reason"] == "findings_only_in_impression"


def test_a_named_column_must_be_there(root: Path) -> None:
    with pytest.raises(DataError, match="'indx'"):
        list(read(root, ConversionLog(), **{**OPTIONS, "indication": "indx"}))


def test_an_unknown_split_word_is_an_error(tree: Callable[..., Path]) -> None:
    root = tree({"t.csv": "image,split\nx.png,holdout\n", "x.png": ""})
    with pytest.raises(DataError, match="holdout"):
        list(read(root, ConversionLog()))


def test_two_tables_are_ambiguous(tree: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="2 tables"):
        list(read(tree({"a.csv": "image\n", "b.csv": "image\n"}), ConversionLog()))


def test_a_table_that_is_not_utf8(tree: Callable[..., Path]) -> None:
    root = tree({"t.csv": "image,findings\nx.png,lóbulo\n".encode("latin-1")})
    with pytest.raises(DataError, match="UTF-8"):
        list(read(root, ConversionLog()))
