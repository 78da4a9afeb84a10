"""VinDr-CXR (Nguyen et al., 2022): PA images with radiologists' labels, no reports.

Layout: ``train/<image_id>.dicom``, ``test/<image_id>.dicom`` (``.dcm``, ``.png`` and ``.jpg`` are
found too) and ``annotations/image_labels_train.csv`` (``image_id, rad_id`` and 28 columns of 0
and 1, one row for each of three readers) and ``image_labels_test.csv`` (``image_id`` and the
columns, the readers' consensus). The split is the official one.

A training label is 1 where most readers of the image marked it. There are no patient ids: each
image counts as a patient of its own.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing, parse_number
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError, shown
from llava_rad.readers import Row

_ENDINGS = (".dicom", ".dcm", ".png", ".jpg")
_NOT_LABELS = ("image_id", "rad_id")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``annotations``, ``train`` and ``test``.
        log: filled with what was left out or noted.
    """
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        readings: dict[str, list[Row]] = {}
        table = root / "annotations" / f"image_labels_{split}.csv"
        for row in read_table(table, ("image_id",), filled=("image_id",), log=log):
            readings.setdefault(row["image_id"], []).append(row)
        for image_id, rows in readings.items():
            path = first_existing(*(root / split / f"{image_id}{end}" for end in _ENDINGS))
            if path is None:
                log.leave_out("image_missing", image_id)
                continue
            labels = {
                name: float(sum(_mark(row, name) for row in rows) > len(rows) / 2)
                for name in rows[0]
                if name not in _NOT_LABELS
            }
            yield Study(
                study_id=image_id,
                patient_id=image_id,
                split=split,
                images=(StudyImage(str(path), "frontal", "PA"),),
                labels=labels,
                source="vindr-cxr",
                extra={"readers": str(len(rows))},
            )


def _mark(row: Row, name: str) -> float:
    number = parse_number(row[name] or "0")
    if number is None:
        raise DataError(
            f"{name!r} is {shown(row[name])}",
            where=row.where,
            remedy="Each observation is 0 or 1",
            kind="bad_row",
        )
    return number
