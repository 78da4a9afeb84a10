"""VinDr-CXR (Nguyen et al., 2022): PA images with radiologists' labels, no reports.

Layout: ``train/<image_id>.dicom``, ``test/<image_id>.dicom`` (``.dcm``, ``.png`` and ``.jpg`` are
found too) and ``annotations/image_labels_train.csv`` (``image_id, rad_id`` and 28 columns of 0
and 1, one row for each of three readers) and ``image_labels_test.csv`` (``image_id`` and the
columns, the readers' consensus). The split is the official one. ``annotations_train.csv`` and
``annotations_test.csv`` beside them hold the boxes (``image_id, rad_id, class_name, x_min, y_min,
x_max, y_max`` in pixels; without ``rad_id`` in the test). The layout of the Kaggle challenge is
read too: ``train.csv`` with the same columns, a row a box, and ``train/<image_id>.dicom``; its
test images have no labels.

A training label is 1 where most readers of the image marked it; boxes are kept with their
reader's name. There are no patient ids: each
image counts as a patient of its own.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing, parse_number
from llava_rad.data.pixel_boxes import Edges, boxes_in_pixels, edges_of
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError, shown
from llava_rad.readers import Row

_ENDINGS = (".dicom", ".dcm", ".png", ".jpg")
_NOT_LABELS = ("image_id", "rad_id")
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_NO_FINDING = "No finding"


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``annotations``, ``train`` and ``test``.
        log: filled with what was left out or noted.
    """
    splits: tuple[Split, ...] = ("train", "test")
    kaggle = root / "train.csv"
    if kaggle.is_file() and not (root / "annotations").is_dir():
        splits = ("train",)
    for split in splits:
        folder = root / "annotations"
        table = kaggle if splits == ("train",) else folder / f"annotations_{split}.csv"
        boxes = _boxes(table, log) if table.is_file() else {}
        if table == kaggle:
            readings = _readings_of_boxes(table, log)
        else:
            readings = _readings(folder / f"image_labels_{split}.csv", log)
        for image_id in sorted(boxes.keys() - readings.keys()):
            log.leave_out("box_of_unlabelled_image", image_id)
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
            found = boxes_in_pixels(path, boxes.get(image_id, ()), log)
            yield Study(
                study_id=image_id,
                patient_id=image_id,
                split=split,
                images=(StudyImage(str(path), "frontal", "PA", boxes=found),),
                labels=labels,
                source="vindr-cxr",
                extra={"readers": str(len(rows))},
            )


def _readings(table: Path, log: ConversionLog) -> dict[str, list[Row]]:
    """What each reader marked, by image."""
    found: dict[str, list[Row]] = {}
    for row in read_table(table, ("image_id",), filled=("image_id",), log=log):
        found.setdefault(row["image_id"], []).append(row)
    return found


def _readings_of_boxes(table: Path, log: ConversionLog) -> dict[str, list[Row]]:
    """The same from a table with a row a box: a reader marks what they draw a box of."""
    marks: dict[str, dict[str, set[str]]] = {}
    names: dict[str, None] = {}
    columns = ("image_id", "rad_id", "class_name")
    for row in read_table(table, columns, filled=columns, log=log):
        names[row["class_name"]] = None
        readers = marks.setdefault(row["image_id"], {})
        readers.setdefault(row["rad_id"], set()).add(row["class_name"])
    return {
        image_id: [
            Row({"rad_id": reader} | {name: str(int(name in said)) for name in names})
            for reader, said in readers.items()
        ]
        for image_id, readers in marks.items()
    }


def _boxes(table: Path, log: ConversionLog) -> dict[str, list[tuple[str, Edges, str | None]]]:
    """Finding, edges and reader of the boxes by image."""
    found: dict[str, list[tuple[str, Edges, str | None]]] = {}
    columns = ("image_id", "class_name", *_EDGES)
    for row in read_table(table, columns, filled=columns[:2], log=log):
        if row["class_name"].casefold() == _NO_FINDING.casefold():
            continue
        edges = edges_of(row, _EDGES)
        if edges is None:
            log.leave_out("bad_box", row["image_id"])
            continue
        box = row["class_name"], edges, row.get("rad_id") or None
        found.setdefault(row["image_id"], []).append(box)
    return found


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
