"""PadChest (Bustos et al., 2020): images, Spanish reports and labels.

The table ``PADCHEST_chest_x_ray_images_labels_160K_*.csv`` has a row an image: ``ImageID``,
``ImageDir``, ``StudyID``, ``PatientID``, ``StudyDate_DICOM``, ``PatientBirth`` (a year),
``PatientSex_DICOM``, ``Projection`` (PA, AP, AP_horizontal, L, COSTAL, EXCLUDE), ``Report``,
``Labels`` (a list as text). Images lie in ``<ImageDir>/<ImageID>`` or directly in the root. There
is no official split.

Reports stay in Spanish, as they are, and :attr:`Study.language` is ``"es"``: English metrics and
labelers do not apply to them. Images of the projection EXCLUDE are left out.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    frontal_first,
    parse_age,
    parse_number,
    parse_sex,
)
from llava_rad.data.priors import add_priors
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.readers import Row
from llava_rad.views import view_of

_COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection", "Report", "Labels")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the table and the image folders.
        log: filled with what was left out or noted.
    """
    tables = [*sorted(root.glob("PADCHEST_*.csv")), *sorted(root.glob("PADCHEST_*.csv.gz"))]
    if not tables:
        raise DataError(
            "there is no PADCHEST_*.csv here",
            where=root,
            remedy="Give the folder that PadChest was unpacked into",
            kind="missing_table",
        )
    rows_of: dict[str, list[Row]] = {}
    filled = ("ImageID", "StudyID", "PatientID")
    for row in read_table(tables[0], _COLUMNS, filled=filled, once="ImageID", log=log):
        if row["Projection"] == "EXCLUDE":
            log.leave_out("projection_excluded", row["ImageID"])
        else:
            rows_of.setdefault(row["StudyID"], []).append(row)

    studies = []
    dates: dict[str, tuple[float, ...]] = {}
    for study_id, rows in rows_of.items():
        first = rows[0]
        images = []
        for row in rows:
            places = (root / row.get("ImageDir", "") / row["ImageID"], root / row["ImageID"])
            path = first_existing(*places)
            if path is None:
                log.leave_out("image_missing", row["ImageID"])
                continue
            images.append(StudyImage(str(path), view_of(row["Projection"]), row["Projection"]))
        if not images:
            log.leave_out("no_image", study_id)
            continue
        if not first["Report"]:
            log.note("no_text", study_id)
        date = first.get("StudyDate_DICOM", "")
        day = parse_number(date)
        if day is not None:  # otherwise no prior
            dates[study_id] = (day,)
        studies.append(
            Study(
                study_id=study_id,
                patient_id=first["PatientID"],
                images=frontal_first(images),
                findings=" ".join(first["Report"].split()),
                labels=_labels(first["Labels"], study_id, log),
                sex=parse_sex(first.get("PatientSex_DICOM")),
                age=_age(date, first.get("PatientBirth", "")),
                source="padchest",
                language="es",
                extra={} if first["Report"] else {"no_findings_reason": "no_text"},
            )
        )
    yield from add_priors(studies, dates, log)


def _labels(text: str, study_id: str, log: ConversionLog) -> dict[str, float | None]:
    if not text:
        return {}
    try:
        names = [" ".join(name.split()) for name in ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
        log.note("labels_unreadable", study_id)
        return {}
    return {name: 1.0 for name in names if name}


def _age(date: str, birth: str) -> float | None:
    """Years between the year of birth and that of the study; one more than the age at most."""
    year, born = parse_number(date[:4]), parse_number(birth)
    return None if year is None or born is None else parse_age(str(int(year) - int(born)))
