"""What a DICOM header says of the study, and first bytes of the file."""

from pathlib import Path

import pytest
from helpers.dicom_files import UID, dicom_bytes
from pydicom import uid as uids
from pydicom.dataset import Dataset

from llava_rad.images import load_radiograph
from llava_rad.images.content import is_picture, without_picture
from llava_rad.images.dicom_view import view_of_header
from llava_rad.images.study_header import StudyHeader, read_study_header

FACTS = {
    "StudyInstanceUID": f"{UID}7",
    "PatientID": "MRN-1",
    "PatientSex": "F",
    "PatientAge": "058Y",
    "PatientBirthDate": "19600305",
    "StudyDate": "20200304",
    "StudyTime": "101530.5",
    "ViewPosition": "PA",
}
SAID = StudyHeader(
    f"{UID}7", "MRN-1", "frontal", "PA", "F", "058Y", "19600305", "20200304", "101530.5"
)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "x"
    path.write_bytes(content)
    return path


def test_the_header_is_read(tmp_path: Path) -> None:
    assert read_study_header(write(tmp_path, dicom_bytes(**FACTS))) == SAID


def test_a_cut_or_deflated_picture_has_its_study(tmp_path: Path) -> None:
    content = dicom_bytes(**FACTS)
    assert read_study_header(write(tmp_path, content[:-5000])) == SAID
    assert read_study_header(write(tmp_path, content[128:])) == SAID  # no preamble
    dataset = Dataset()
    for keyword, value in FACTS.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID, dataset.SOPInstanceUID = uids.CTImageStorage, f"{UID}8"
    dataset.PixelData = bytes(5_000_000)
    dataset["PixelData"].VR = "OB"
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "deflated", enforce_file_format=True)
    assert read_study_header(tmp_path / "deflated") == SAID


def test_rubbish_in_one_element_costs_that_one_only(tmp_path: Path) -> None:
    content = dicom_bytes(**FACTS, SpecificCharacterSet="ISO_IR 100")
    for bad in (b"NONSENSE 1", b"\0\0\0\0\0\0\0\0\0\0"):
        said = read_study_header(write(tmp_path, content.replace(b"ISO_IR 100", bad)))
        assert said == SAID
    said = read_study_header(write(tmp_path, content.replace(b"058Y", b"\xff\xfe\0Y")))
    assert said is not None and said.study_uid == SAID.study_uid


@pytest.mark.parametrize("content", [b"", b"DICM", b"\0" * 128 + b"DICM", b"text" * 100])
def test_what_is_no_dicom_has_no_header(tmp_path: Path, content: bytes) -> None:
    said = read_study_header(write(tmp_path, content))
    assert said is None or said == StudyHeader()
    assert read_study_header(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("said", "view"),
    [
        (("PA", None, (), None), "frontal"),
        (("LL", None, (), "Chest PA"), "lateral"),
        ((None, "lateral", (), None), "lateral"),
        (("PA", "lateral", (), None), "unknown"),
        # An oblique view is not made a frontal one by what comes after it.
        (("RAO", None, ("L", "F"), "Chest PA"), "unknown"),
        ((None, "oblique", (), "Chest PA"), "unknown"),
        # A word that names no view says nothing.
        (("CHEST", None, ("L", "F"), None), "frontal"),
        ((None, None, ("L", "F"), "Chest LAT"), "frontal"),
        ((None, None, ("R", "F"), None), "frontal"),
        ((None, None, ("A", "F"), None), "lateral"),
        ((None, None, ("P", "FA"), None), "lateral"),
        ((None, None, ("F", "L"), None), "frontal"),  # lies on its side
        ((None, None, ("LA", "F"), None), "unknown"),  # oblique
        ((None, None, ("L", "P"), None), "unknown"),  # no radiograph of the chest
        ((None, None, ("L",), "W Chest lat."), "lateral"),
        ((None, None, "LF", "Thorax AP"), "frontal"),
        ((None, None, (), "CHEST PA AND LATERAL"), "unknown"),
        ((None, None, (), None), "unknown"),
    ],
)
def test_the_view_by_all_that_the_header_says(said: tuple, view: str) -> None:
    assert view_of_header(*said) == view


def test_a_radiograph_has_the_same_view(tmp_path: Path) -> None:
    path = write(tmp_path, dicom_bytes(PatientOrientation=["A", "F"], SeriesDescription="x"))
    header = read_study_header(path)
    assert header is not None
    assert header.view == load_radiograph(path).view == "lateral"


@pytest.mark.parametrize(
    ("head", "picture"),
    [
        (b"\0" * 128 + b"DICM", True),
        (b"\x89PNG\r\n\x1a\n", True),
        (b"\xff\xd8\xff\xe0", True),
        (b"II*\0", True),
        (b"BM" + b"\0" * 12 + (40).to_bytes(4, "little"), True),
        (b"BMW and other cars are written about here", False),
        (b"P5\n64 64\n255\n", True),
        (b"P5 is a text, P6 too", False),
        (b"RIFF\0\0\0\0WEBPVP8 ", True),
        (b"RIFF\0\0\0\0WAVEfmt ", False),
        (b"", False),
        (b"%PDF-1.7", False),
    ],
)
def test_pictures_by_their_first_bytes(head: bytes, picture: bool) -> None:
    assert is_picture(head) is picture


def test_dicom_without_a_picture_is_named() -> None:
    said = without_picture(dicom_bytes(sop_class=uids.BasicTextSRStorage)[:1024])
    assert said == "Basic Text SR Storage"
    assert without_picture(dicom_bytes(sop_class="1.2.840.10008.1.3.10")[:1024]) == "DICOMDIR"
    assert without_picture(dicom_bytes()[:1024]) is None
    assert without_picture(b"\x89PNG") is None
