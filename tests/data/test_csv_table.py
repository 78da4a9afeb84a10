"""Any CSV table, its columns named by options."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog
from llava_rad.data.csv_table import read
from llava_rad.errors import ConfigError, DataError

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


def test_a_missing_column_names_the_option_that_maps_it(tree: Callable[..., Path]) -> None:
    root = tree({"table.csv": "img,Sex\na.png,F\n"})
    with pytest.raises(DataError, match=r"Its columns are img, Sex; name .* -O image=img"):
        list(read(root, ConversionLog()))
    with pytest.raises(DataError, match=r"-O patient=COLUMN"):
        list(read(root, ConversionLog(), image="img", patient="who"))
    with pytest.raises(DataError, match="It has no columns: is the file empty"):
        list(read(tree({"empty/table.csv": ""}) / "empty", ConversionLog()))


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


def test_words_for_missing_are_missing_in_every_column(tree: Callable[..., Path]) -> None:
    text = (
        "image,patient_id,indication,findings,sex,age,Edema\n"
        "a.png,nan,N/A,nan,NA,None,<NA>\n"
        "b.png,NaN,-,None of the lines has moved.,F,40,1\n"
        "c.png,p3,NULL,Nasogastric tube in place.,M,.,0\n"
    )
    log = ConversionLog()
    files = {"t.csv": text, "a.png": "", "b.png": "", "c.png": ""}
    first, second, third = read(tree(files), log, labels="Edema")
    # Two patients who are not known are not one patient called 'nan'.
    assert [s.patient_id for s in (first, second, third)] == ["a.png", "b.png", "p3"]
    assert (first.findings, first.indication, first.sex, first.age) == (None, None, None, None)
    assert first.labels == {"Edema": None} and second.labels == {"Edema": 1.0}
    assert (second.findings, second.indication) == ("None of the lines has moved.", None)
    assert third.findings == "Nasogastric tube in place."
    assert log.noted["no_patient_id"] == ["a.png", "b.png"]


def test_several_rows_of_one_image_give_it_once(tree: Callable[..., Path]) -> None:
    text = (
        "image,study_id,findings,box\n"
        "a.png,s1,Clear.,1\na.png,s1,Clear.,2\na.png,s1,Effusion.,3\nb.png,s1,Clear.,4\n"
        "c.png,s2,Clear.,5\nd.png,s2,Mass.,6\n"
    )
    log = ConversionLog()
    files = {"t.csv": text, **{f"{name}.png": "" for name in "abcd"}}
    first, second = read(tree(files), log)
    assert [Path(i.path).name for i in first.images] == ["a.png", "b.png"]
    assert (first.findings, second.findings) == ("Clear.", "Clear.")
    assert log.noted["image_listed_again"] == ["a.png"]
    assert log.noted["rows_of_image_disagree"] == ["a.png"]
    assert log.noted["rows_of_study_disagree"] == ["s2"]


def test_columns_are_found_whatever_their_capitals(tree: Callable[..., Path]) -> None:
    files = {"t.tsv": "Image\tFindings\tEDEMA\na.png\tClear.\tTrue\n", "a.png": ""}
    log = ConversionLog()
    (study,) = read(tree(files), log, labels="Edema")
    assert (study.findings, study.labels) == ("Clear.", {"Edema": 1.0})
    assert set(log.noted) == {
        "column 'Image' taken as 'image'",
        "column 'Findings' taken as 'findings'",
        "column 'EDEMA' taken as 'Edema'",
    }
    files = {"t.csv": "image,Findings,FINDINGS\na.png,x,y\n", "a.png": ""}
    with pytest.raises(DataError, match="more than one column 'findings'"):
        list(read(tree(files) / "t.csv", ConversionLog()))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('a.png,s1,"Clear.\nb.png,s2,"Effusion."\n', ":2: not a CSV table"),
        ("a.png,s1,Clear.\nb.png,s2,Clea", ":3: .*'Clea'"),
        ("a.png,s1,Clear, no mass.\n", ":2: the row has 4 cells"),
    ],
)
def test_no_report_gets_another_ones_text(tree: Callable[..., Path], rows: str, says: str) -> None:
    root = tree({"t.csv": f"image,study_id,findings\n{rows}", "a.png": "", "b.png": ""})
    with pytest.raises(DataError, match=says):
        list(read(root, ConversionLog()))


def test_a_split_that_is_unknown_is_named_by_its_line(tree: Callable[..., Path]) -> None:
    root = tree({"t.csv": "image,split\nx.png,train\ny.png,holdout\n", "x.png": "", "y.png": ""})
    with pytest.raises(DataError, match=r"t\.csv:3: there is no split 'holdout'"):
        list(read(root, ConversionLog()))


def test_rows_facts_and_a_name_are_chosen(root: Path) -> None:
    log = ConversionLog()
    options = OPTIONS | {"only": "set=train", "extra": "set, years", "source": "ward"}
    (study,) = read(root, log, **options)
    assert (study.study_id, study.source) == ("e1", "ward")
    assert study.extra["set"] == "train" and study.extra["years"] == "40"
    assert log.left_out["not set=train"] == ["c.png", "gone.png"]
    with pytest.raises(ConfigError, match="only=source=nih"):
        next(read(root, log, **OPTIONS | {"only": "train"}))
    with pytest.raises(DataError, match="no column 'sett'"):
        next(read(root, log, **OPTIONS | {"only": "sett=train"}))
