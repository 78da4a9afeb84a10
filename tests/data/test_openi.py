"""Open-i: the real archive, and small trees with images and broken files."""

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_rad.data import ConversionLog, Study
from llava_rad.data.openi import read
from llava_rad.errors import DataError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
  <uId id="CXR{uid}"/>
  <MedlineCitation><Article><Abstract>
    <AbstractText Label="COMPARISON">None.</AbstractText>
    <AbstractText Label="INDICATION">XXXX-year-old with cough</AbstractText>
    <AbstractText Label="FINDINGS">{findings}</AbstractText>
    <AbstractText Label="IMPRESSION">1. Normal chest x-XXXX. 2. No change.</AbstractText>
  </Abstract></Article></MedlineCitation>
  <MeSH><major>Cardiomegaly/mild</major><major>Spine</major><automatic>spine</automatic></MeSH>
  <parentImage id="CXR{uid}_1_IM-0001-3001"/><parentImage id="CXR{uid}_1_IM-0001-4001"/>
</eCitation>
"""

FILES = {
    "ecgen-radiology/1.xml": XML.format(uid=1, findings="Lungs are clear and XXXX expanded."),
    "ecgen-radiology/2.xml": XML.format(uid=2, findings=""),
    "ecgen-radiology/10.xml": XML.format(uid=10, findings="XXXX tube XXXX XXXX.").replace(
        "CXR10_1_", "CXR10_10_"
    ),
    "ecgen-radiology/3.xml": "<eCitation><uId",
    "ecgen-radiology/4.xml": "<eCitation/>",
    "png/CXR1_1_IM-0001-3001.png": "",
    "png/CXR1_1_IM-0001-4001.png": "",
    "png/10_IM-0001-3001.dcm.png": "",
    "png/indiana_projections.csv": (
        "uid,filename,projection\n"
        "1,1_IM-0001-3001.dcm.png,Lateral\n"
        "1,1_IM-0001-4001.dcm.png,Frontal\n"
    ),
}


@pytest.fixture(scope="module")
def archive(shared_data: Path) -> tuple[list[Study], ConversionLog]:
    log = ConversionLog()
    return list(read(shared_data / "openi", log)), log


def test_the_real_archive(archive: tuple[list[Study], ConversionLog]) -> None:
    studies, log = archive
    assert len(studies) == len({study.study_id for study in studies}) == 3955
    assert sum(study.findings is not None for study in studies) == 3425
    assert log.left_out == {}
    assert sum(len(log.noted[reason]) for reason in ("findings_only_in_impression", "no_text")) == (
        3955 - 3425
    )
    first = next(study for study in studies if study.study_id == "CXR1")
    assert first.indication == "Positive TB test"
    assert first.impression == "Normal chest x-ray."
    assert first.extra["impression_original"] == "Normal chest x-XXXX."
    assert first.extra["mesh"] == "normal"
    assert first.extra["image_ids"] == "CXR1_1_IM-0001-3001;CXR1_1_IM-0001-4001"


def test_no_mark_and_no_debris_in_real_texts(archive: tuple[list[Study], ConversionLog]) -> None:
    """Case C38 over all reports."""
    studies, log = archive
    debris = re.compile(r"XXXX|  | [.,;:]|\.\.|,,|^[.,;:]")
    texts = [
        text
        for study in studies
        for text in (study.findings, study.impression, study.indication, study.comparison)
        if text
    ]
    assert [text for text in texts if debris.search(text)] == []
    masked = [study for study in studies if "findings_original" in study.extra]
    assert len(masked) > 1000
    assert all(study.extra["findings_original"] != study.findings for study in masked)
    assert len(log.noted["findings_mostly_masked"]) == 5


def test_a_tree_with_images(tree: Callable[..., Path]) -> None:
    root = tree(FILES)
    log = ConversionLog()
    first, second, tenth = read(root, log, images=str(root / "png"))
    assert [study.study_id for study in (first, second, tenth)] == ["CXR1", "CXR2", "CXR10"]
    assert [(Path(i.path).name, i.view) for i in first.images] == [
        ("CXR1_1_IM-0001-4001.png", "frontal"),
        ("CXR1_1_IM-0001-3001.png", "lateral"),
    ]
    assert first.findings == "Lungs are clear and expanded."
    assert first.impression == "Normal chest x-ray. No change."
    assert first.indication == "Year-old with cough"
    assert first.extra["mesh"] == "Cardiomegaly/mild;Spine"
    assert first.extra["mesh_automatic"] == "spine"
    assert second.findings is None
    assert second.extra["no_findings_reason"] == "findings_only_in_impression"
    assert tenth.images[0].view == "unknown"
    assert log.left_out == {
        "not_xml": ["3.xml"],
        "no_report_id": ["4.xml"],
        "image_missing": [
            "CXR2_1_IM-0001-3001",
            "CXR2_1_IM-0001-4001",
            "CXR10_10_IM-0001-4001",
        ],
    }
    assert log.noted["no_image"] == ["CXR2"]
    assert log.noted["findings_mostly_masked"] == ["CXR10"]


def test_archive_and_folder_give_the_same(tree: Callable[..., Path], tmp_path: Path) -> None:
    root = tree(FILES)
    path = tmp_path / "NLMCXR_reports.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            tar.addfile(info, io.BytesIO(content.encode()))

    def texts(place: Path) -> dict[str, Study]:
        return {study.study_id: study for study in read(place, ConversionLog(), keep_marks=True)}

    assert texts(path) == texts(root)
    assert texts(path)["CXR1"].findings == "Lungs are clear and XXXX expanded."


def test_a_broken_archive(tmp_path: Path) -> None:
    (tmp_path / "NLMCXR_reports.tgz").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(DataError, match="not a tar archive"):
        list(read(tmp_path, ConversionLog()))
