"""Small DICOM studies with identifiers that must not leave, and documents of made-up reports."""

from datetime import UTC, datetime
from pathlib import Path

from helpers.dicom_files import UID, dicom_bytes

from llava_rad.data import expand_inputs
from llava_rad.reports.formats import report_document
from llava_rad.reports.report import Report

WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IDENTIFYING = {
    "PatientName": "FAMILY^GIVEN",
    "PatientID": "MRN-77",
    "PatientBirthDate": "19500102",
    "AccessionNumber": "ACC-5",
    "StudyID": "SID-3",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "ReferringPhysicianName": "REFERRER^GIVEN",
}
SECRETS = ("FAMILY", "MRN-77", "19500102", "1950-01-02", "ACC-5", "SID-3", "20200304", "2020-03-04")


def write_image(folder: Path, number: int = 1, name: str = "pa", view: str = "PA", **elements):
    """An image of study ``number``; gives its path."""
    values = {
        "StudyInstanceUID": f"{UID}1.{number}",
        "SeriesInstanceUID": f"{UID}2.{number}",
        "ViewPosition": view,
        "PatientSex": "F",
        **IDENTIFYING,
        **elements,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}_{name}.dcm"
    path.write_bytes(dicom_bytes(seed=10 * number + (view != "PA"), **values))
    return path


def document_of(model, paths, text="The lungs are clear.\nNo effusion.", **options):
    """The document of a made-up report on the study of these files."""
    [study] = expand_inputs(paths)
    roles = options.pop("roles", ("current_frontal", "current_lateral")[: len(study.images)])
    images = tuple(image.path for image in study.images)
    facts = {"warnings": (f"view_unknown: {images[0]} does not state its view",)}
    facts |= {k: options.pop(k) for k in ("warnings", "observations", "truncated") if k in options}
    known = {"truncated": False, "repetitive": False, **facts}
    report = Report(
        text, "tiny-model", 3, study_id=study.study_id, images=images, roles=roles, **known
    )
    return report_document(report, study, model, written=WRITTEN, **options)
