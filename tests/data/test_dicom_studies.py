"""DICOM files become studies with their views, under names that say nothing of the patient."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_files import UID, dicom_bytes, write_exam
from PIL import Image

from llava_rad.data import ConversionLog, Identifiers, convert, expand_inputs, load_manifest
from llava_rad.data.identifiers import read_key
from llava_rad.errors import ConfigError, DataError


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """Six exams of two views, of three patients; the headers name view, sex and age."""
    folder = tmp_path / "exams"
    for number in range(6):
        write_exam(
            folder / f"day{number % 2}",
            number,
            patient=number % 3,
            PatientSex="FM"[number % 2],
            PatientAge=f"{40 + number:03}Y",
            StudyDate=f"2020010{9 - number}",
            StudyTime="120000",
        )
    return folder


def names_of(study) -> list[tuple[str, str]]:
    return [(Path(image.path).name, image.view) for image in study.images]


def test_files_of_one_study_are_one_study_with_its_views(exams: Path) -> None:
    studies = expand_inputs([exams])
    assert [names_of(study) for study in studies] == [
        [(f"{n}_pa.dcm", "frontal"), (f"{n}_lat.dcm", "lateral")] for n in (0, 2, 4, 1, 3, 5)
    ]
    # A person finds the exam by its first file, and nothing of the header is in a name.
    assert studies[0].study_id == str(exams / "day0" / "0_lat.dcm")
    assert len({study.patient_id for study in studies}) == 3
    assert not any("MRN" in study.patient_id for study in studies)
    assert [(study.sex, study.age) for study in studies[:2]] == [("F", 40.0), ("F", 42.0)]
    assert studies[0].images[0].view_position == "PA"
    # The two files of an exam named one by one, with another spelling of the first.
    files = sorted((exams / "day0").glob("2_*"))
    (study,) = expand_inputs([*files, f"{exams}/day1/../day0/./2_pa.dcm".replace("day1/../", "")])
    assert names_of(study) == [("2_pa.dcm", "frontal"), ("2_lat.dcm", "lateral")]


def test_a_study_lies_in_several_folders_beside_other_files(tmp_path: Path) -> None:
    write_exam(tmp_path / "a", 1, patient=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "1_lat.dcm").rename(tmp_path / "b" / "1_lat.dcm")
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / "b" / "x.png")
    (tmp_path / "c.dcm").write_bytes(dicom_bytes(PatientID="MRN-001"))
    studies = expand_inputs([tmp_path])
    assert [names_of(study) for study in studies] == [
        [("1_pa.dcm", "frontal"), ("1_lat.dcm", "lateral")],
        [("x.png", "unknown")],
        [("c.dcm", "unknown")],
    ]
    assert studies[0].patient_id == studies[2].patient_id != studies[1].patient_id


def test_one_uid_of_several_patients_is_several_studies(tmp_path: Path) -> None:
    """Some anonymisers write one UID for all."""
    for patient in (1, 2):
        write_exam(tmp_path / str(patient), 1, patient=patient)
    log = ConversionLog()
    studies = expand_inputs([tmp_path], identifiers=Identifiers(), log=log)
    assert [len(study.images) for study in studies] == [2, 2]
    assert len({s.study_id for s in studies}) == len({s.patient_id for s in studies}) == 2
    assert len(log.noted["study_uid_of_several_patients"]) == 2
    # A file that names nobody belongs to the study's patient.
    lateral = dicom_bytes(StudyInstanceUID=f"{UID}1.1", ViewPosition="LL")
    (tmp_path / "1" / "1_lat.dcm").write_bytes(lateral)
    (study,) = expand_inputs([tmp_path / "1"])
    assert len(study.images) == 2


def test_the_patients_study_before_comes_by_date(exams: Path) -> None:
    studies = {s.study_id: s for s in expand_inputs([exams], identifiers=Identifiers(keep=True))}
    # Later numbers are earlier dates: the prior of exam 0 is exam 3, of the same patient.
    prior = studies[f"{UID}1.0"].prior
    assert prior is not None and prior.study_id == f"{UID}1.3"
    assert studies[f"{UID}1.3"].prior is None


def test_a_manifest_names_nobody_and_its_key_links(exams: Path, tmp_path: Path) -> None:
    report = convert("folder", exams, tmp_path / "m.jsonl", test=0.5)
    text = (tmp_path / "m.jsonl").read_text() + (tmp_path / "m.jsonl.report.json").read_text()
    for secret in ("MRN", f"{UID}1", "202001"):
        assert secret not in text
    studies = load_manifest(tmp_path / "m.jsonl")
    assert (report.studies, report.images) == (6, 12)
    assert sorted(s.age for s in studies) == [40, 41, 42, 43, 44, 45]
    assert [image.view for image in studies[0].images] == ["frontal", "lateral"]
    by_id = {s.study_id: s for s in studies}
    priors = [(s, by_id[s.prior.study_id]) for s in studies if s.prior]
    assert len(priors) == 3
    for study, prior in priors:
        assert study.patient_id == prior.patient_id and study.split == prior.split
        assert (
            int(Path(prior.images[0].path).name[0]) == int(Path(study.images[0].path).name[0]) + 3
        )

    # Made again it is the same; with another key it is not; with the key handed on it is.
    first = (tmp_path / "m.jsonl").read_bytes()
    key = Path(report.key or "")
    assert key == tmp_path / "m.jsonl.key" and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(read_key(key)) == 32
    convert("folder", exams, tmp_path / "m.jsonl", test=0.5)
    assert (tmp_path / "m.jsonl").read_bytes() == first
    convert("folder", exams, tmp_path / "other.jsonl")
    convert("folder", exams, tmp_path / "linked.jsonl", key=key)
    ids = [
        {(s.study_id, s.patient_id) for s in load_manifest(tmp_path / f"{name}.jsonl")}
        for name in ("m", "other", "linked")
    ]
    assert ids[0] == ids[2] and not ids[0] & ids[1]
    (tmp_path / "other.jsonl.key").write_text("no key")
    with pytest.raises(DataError, match=r"other\.jsonl\.key: the key of the ids cannot be read"):
        convert("folder", exams, tmp_path / "other.jsonl")


def test_identifiers_are_kept_when_asked_for(exams: Path, tmp_path: Path) -> None:
    report = convert("folder", exams, tmp_path / "m.jsonl", keep_identifiers=True)
    study = next(s for s in load_manifest(tmp_path / "m.jsonl") if s.study_id == f"{UID}1.4")
    assert (study.patient_id, study.extra["study_date"]) == ("MRN-001", "20200105")
    assert report.key is None and not (tmp_path / "m.jsonl.key").exists()
    with pytest.raises(ConfigError, match="the data set's own"):
        convert("nih", exams, tmp_path / "n.jsonl", keep_identifiers=True)


@pytest.mark.parametrize("test", [0.2, 0.5, 0.8])
def test_no_patient_is_on_both_sides(exams: Path, tmp_path: Path, test: float) -> None:
    for attempt in range(4):
        convert("folder", exams, tmp_path / f"{attempt}.jsonl", test=test)
        sides: dict[str, set] = {}
        for study in load_manifest(tmp_path / f"{attempt}.jsonl"):
            assert len(study.images) == 2
            sides.setdefault(study.patient_id, set()).add(study.split)
        assert len(sides) == 3 and all(len(splits) == 1 for splits in sides.values())


@pytest.mark.parametrize("patient", [None, "ANONYMOUS", "nan", "0000", "Anonymized"])
def test_a_folder_without_patients_says_so_before_it_splits(
    tmp_path: Path, patient: str | None
) -> None:
    for number in range(8):
        write_exam(tmp_path / "exams", number, PatientID=patient)
    said: list[str] = []
    report = convert("folder", tmp_path / "exams", tmp_path / "m.jsonl", test=0.5, tell=said.append)
    assert said[0].startswith("8 of 8 studies name no patient")
    assert len(report.noted["no_patient_id"]) == 8
    # The views of one exam stay together all the same.
    studies = load_manifest(tmp_path / "m.jsonl")
    assert [len(s.images) for s in studies] == [2] * 8
    assert len({s.patient_id for s in studies}) == 8


def test_texts_belong_to_exams(tmp_path: Path) -> None:
    root = tmp_path / "root"
    text = "FINDINGS: Exam {}."
    write_exam(root / "one", 1)
    (root / "one" / "report.txt").write_text(text.format(1))
    write_exam(root / "two", 2)
    (root / "two" / "2_pa.txt").write_text(text.format(2))
    for number in (3, 4):
        write_exam(root / "both", number)
    (root / "both" / "report.txt").write_text(text.format("3 or 4"))
    write_exam(root / "unsure", 5)
    (root / "unsure" / "5_pa.txt").write_text(text.format(5))
    (root / "unsure" / "5_lat.txt").write_text(text.format(6))
    (root / "uid").mkdir()
    (root / "uid" / "1.2.3.4").write_bytes(dicom_bytes())
    (root / "uid" / "1.2.3.4.txt").write_text(text.format(7))
    report = convert("folder", root, tmp_path / "m.jsonl")
    found = {
        Path(s.images[0].path).name: s.findings or s.extra["no_findings_reason"]
        for s in load_manifest(tmp_path / "m.jsonl")
    }
    assert found == {
        "1_pa.dcm": "Exam 1.",
        "2_pa.dcm": "Exam 2.",
        "3_pa.dcm": "no_text_file",
        "4_pa.dcm": "no_text_file",
        "5_pa.dcm": "several_texts",
        "1.2.3.4": "Exam 7.",
    }
    assert report.left_out == {"text_of_several_studies": ["both/report.txt"]}


def test_names_that_are_no_utf8_go_into_a_manifest_and_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    names = [b"scan\xff.dcm", b"new\nline.dcm", rb"back\xff.dcm", "ü.dcm".encode()]
    for seed, name in enumerate(names):
        (root / os.fsdecode(name)).write_bytes(dicom_bytes(seed=seed))
    (root / os.fsdecode(b"scan\xff.txt")).write_bytes(b"FINDINGS: Clear lungs.")
    for ending in ("jsonl", "parquet"):
        manifest = tmp_path / f"m.{ending}"
        report = convert("folder", root, manifest)
        assert report.with_findings == 1
        if ending == "jsonl":
            assert r"root/scan\\xff.dcm" in manifest.read_text(encoding="utf-8")
        studies = load_manifest(manifest)
        found = {os.fsencode(Path(s.images[0].path).name) for s in studies}
        assert found == set(names)
        assert all(Path(s.images[0].path).is_file() for s in studies)
        for study in studies:
            study.study_id.encode()
