"""BRAX (Reis et al., 2022): Brazilian images with CheXpert labels; the reports are not public.

``master_spreadsheet_update.csv`` has a row an image: ``PngPath``, ``DicomPath``, ``PatientID``,
``PatientSex``, ``PatientAge`` (groups of five years, ``"85 or more"``), ``AccessionNumber``,
``StudyDate``, ``ViewPosition`` and the 14 observations. There is no official split. Study dates
are fictitious and say nothing about order, so no study gets a prior.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.chexpert_labels import parse_chexpert_labels
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    frontal_first,
    parse_age,
    parse_sex,
)
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.observations import OBSERVATIONS
from llava_rad.readers import Row
from llava_rad.views import view_of

_TABLES = ("master_spreadsheet_update.csv", "master_spreadsheet.csv")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the table and the image folders.
        log: filled with what was left out or noted.
    """
    path = first_existing(*(root / name for name in _TABLES)) or root / _TABLES[0]
    columns = ("PngPath", "PatientID", "AccessionNumber", "ViewPosition", *OBSERVATIONS)
    rows_of: dict[tuple[str, str], list[Row]] = {}
    filled = ("PatientID", "AccessionNumber")
    for row in read_table(path, columns, filled=filled, once="PngPath", log=log):
        # Accession numbers are drawn at random and may repeat between patients.
        rows_of.setdefault((row["PatientID"], row["AccessionNumber"]), []).append(row)
    for (patient, accession), rows in rows_of.items():
        study_id = f"{patient}/{accession}"
        images = []
        for row in rows:
            names = [row[name] for name in ("PngPath", "DicomPath") if row.get(name)]
            image = first_existing(*(root / name for name in names))
            if image is None:
                log.leave_out("image_missing", row["PngPath"])
                continue
            position = row["ViewPosition"]
            images.append(StudyImage(str(image), view_of(position), position))
        if not images:
            log.leave_out("no_image", study_id)
            continue
        first = rows[0]
        yield Study(
            study_id=study_id,
            patient_id=patient,
            images=frontal_first(images),
            labels=parse_chexpert_labels(first),
            sex=parse_sex(first.get("PatientSex")),
            age=parse_age(first.get("PatientAge", "").removesuffix("or more")),
            source="brax",
            language="pt",
        )
