"""MIMIC-CXR and MIMIC-CXR-JPG (Johnson et al., 2019).

Layout: ``files/p10/p10000032/s50414267/<dicom_id>.jpg`` (or ``.dcm``, ``.png``), and in the root
``mimic-cxr-2.0.0-metadata.csv``, ``-split.csv`` and, if there, ``-chexpert.csv``, each plain or
``.csv.gz``. The report texts are not part of MIMIC-CXR-JPG: they come from MIMIC-CXR's
``mimic-cxr-reports.zip``, unpacked into the same ``files`` folder or elsewhere
(``files/p10/p10000032/s50414267.txt``).

The prior is the patient's latest earlier study by StudyDate and StudyTime; study ids are random.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.chexpert_labels import parse_chexpert_labels
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    frontal_first,
    is_file,
    parse_number,
    parse_split,
)
from llava_rad.data.priors import add_priors
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, parse_report
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.observations import OBSERVATIONS
from llava_rad.readers import Row, read_text
from llava_rad.views import view_of

_TABLE = "mimic-cxr-2.0.0-{}.csv"


def read(
    root: Path, log: ConversionLog, *, reports: str = "", keep_marks: bool = False
) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``files`` and the tables.
        log: filled with what was left out or noted.
        reports: the ``files`` folder of the report texts, where it is not in the root.
        keep_marks: leave ``___`` in the texts.

    Raises:
        DataError: there are no report texts at all, or a table is missing.
    """
    reports_folder = _reports_folder(root, reports)
    splits = {
        row["dicom_id"]: parse_split(row["split"], row.where)
        for row in _table(root, "split", ("dicom_id", "split"), log)
    }
    labels = _labels(root, log)
    images: dict[tuple[str, str], list[StudyImage]] = {}
    split_of: dict[tuple[str, str], Split | None] = {}
    times: dict[str, tuple[float, ...]] = {}
    columns = ("dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime")
    for row in _table(root, "metadata", columns, log):
        dicom_id, study = row["dicom_id"], (row["subject_id"], row["study_id"])
        if dicom_id not in splits:
            log.leave_out("in_no_official_split", dicom_id)
            continue
        folder = root / "files" / _study_path(*study)
        path = first_existing(*(folder / f"{dicom_id}{end}" for end in (".jpg", ".dcm", ".png")))
        if path is None:
            log.leave_out("image_missing", dicom_id)
            continue
        view = row["ViewPosition"]
        images.setdefault(study, []).append(StudyImage(str(path), view_of(view), view))
        split_of[study] = splits[dicom_id]
        date, time = parse_number(row["StudyDate"]), parse_number(row["StudyTime"] or "0")
        if date is not None and time is not None:  # otherwise no prior
            times[f"s{study[1]}"] = (date, time)

    studies = []
    for study, study_images in images.items():
        subject, study_id = study[0], f"s{study[1]}"
        report = reports_folder / _study_path(*study).with_suffix(".txt")
        if is_file(report):
            try:
                sections = parse_report(read_text(report))
            except DataError:  # one bad file does not end the others
                sections = ReportSections(no_findings_reason="report_unreadable")
        else:
            sections = ReportSections(no_findings_reason="report_missing")
        fields, extra = text_fields(sections, study_id, log, keep_marks=keep_marks)
        studies.append(
            Study(
                study_id=study_id,
                patient_id=f"p{subject}",
                split=split_of[study],
                images=frontal_first(study_images),
                **fields,
                labels=labels.get(study, {}),
                source="mimic-cxr",
                extra=extra,
            )
        )
    yield from add_priors(studies, times, log)


def _study_path(subject: str, study: str) -> Path:
    return Path(f"p{subject[:2]}", f"p{subject}", f"s{study}")


def _reports_folder(root: Path, given: str) -> Path:
    candidates = [Path(given)] if given else [root / "files", root / "mimic-cxr-reports" / "files"]
    for folder in candidates:
        if next(folder.glob("p*/p*/s*.txt"), None) is not None:
            return folder
    patterns = " and ".join(f"{folder}/p*/p*/s*.txt" for folder in candidates)
    raise DataError(
        f"there are no report texts: looked for {patterns}",
        where=root,
        remedy="MIMIC-CXR-JPG holds no reports; unpack mimic-cxr-reports.zip of MIMIC-CXR "
        "(physionet.org/content/mimic-cxr) here, or give its files folder as reports=FOLDER",
        kind="no_reports",
    )


def _table(root: Path, name: str, columns: tuple[str, ...], log: ConversionLog) -> Iterator[Row]:
    plain = root / _TABLE.format(name)
    path = first_existing(plain, plain.with_suffix(".csv.gz")) or plain
    ids = [column for column in columns if column.endswith("_id")]
    remedy = "It comes with MIMIC-CXR-JPG, beside its files folder"
    once = "dicom_id" if "dicom_id" in columns else ""
    return read_table(path, columns, filled=ids, once=once, log=log, remedy=remedy)


def _labels(root: Path, log: ConversionLog) -> dict[tuple[str, str], dict[str, float | None]]:
    plain = root / _TABLE.format("chexpert")
    if first_existing(plain, plain.with_suffix(".csv.gz")) is None:
        return {}
    return {
        (row["subject_id"], row["study_id"]): parse_chexpert_labels(row)
        for row in _table(root, "chexpert", ("subject_id", "study_id", *OBSERVATIONS), log)
    }
