"""NIH ChestX-ray14 (Wang et al., 2017): frontal images with labels, no reports.

Two layouts are read. The public one: ``Data_Entry_2017.csv`` or ``Data_Entry_2017_v2020.csv``,
``train_val_list.txt`` and ``test_list.txt``, with the images in ``images_001/images`` to
``images_012/images`` or in one ``images`` folder. And a subset: ``metadata.csv`` with the columns
``image, split, patient, labels, sex, age, view``, where ``image`` is a path below the root.

``BBox_List_2017.csv`` (984 boxes of 8 findings, in pixels of the images' 1024 x 1024) is read where
it lies beside either.

An image is a study of its own: the data set does not say which images belong together. Follow-up
numbers are an order without dates, so no study gets a prior.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import is_file, parse_age, parse_sex, parse_split
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.label_template import (
    FINDING_LABELS,
    NO_FINDING,
    findings_from_labels,
    sentence_of_label,
)
from llava_rad.data.pixel_boxes import Edges, boxes_in_pixels, edges_of
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.data.template import TEMPLATE_NAME
from llava_rad.errors import DataError
from llava_rad.readers import read_text
from llava_rad.views import view_of

_BOXES = "BBox_List_2017.csv"
# The header names one column "Bbox [x,y,w,h]", whose commas make four of it.
_EDGES = ("Bbox [x", "y", "w", "h]")
_OF_BOXES = {"Infiltrate": "Infiltration"}
_SIDE = 1024.0  # pixels


def read(root: Path, log: ConversionLog, *, template_findings: bool = True) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder it was unpacked into.
        log: filled with what was left out or noted.
        template_findings: make findings text from the labels
            (:mod:`llava_rad.data.label_template`); without it the studies have labels only.
    """
    rows = _subset_rows(root, log) if (root / "metadata.csv").is_file() else _public_rows(root, log)
    boxes = _boxes(root, log)
    for row in rows:
        image_id = row["id"]
        labels = [name.strip() for name in row["labels"].split("|") if name.strip()]
        try:
            text = findings_from_labels(labels, image_id)
        except DataError as error:
            log.leave_out(error.kind, image_id)
            continue
        age = parse_age(row["age"])
        if age is None:
            log.note("no_usable_age", image_id)
        if not is_file(row["path"]):
            log.leave_out("image_missing", image_id)
            continue
        extra = {"follow_up": row["follow_up"]} if row.get("follow_up") else {}
        if template_findings:
            extra["findings_from"] = TEMPLATE_NAME
        yield Study(
            study_id=image_id,
            patient_id=row["patient"],
            split=row["split"],
            images=(
                StudyImage(
                    str(row["path"]),
                    view_of(row["view"]),
                    row["view"],
                    boxes=_placed(
                        row["path"], boxes.get(image_id, []), text if template_findings else "", log
                    ),
                ),
            ),
            findings=text if template_findings else None,
            labels={name: float(name in labels) for name in (*FINDING_LABELS, NO_FINDING)},
            sex=parse_sex(row["sex"]),
            age=age,
            source="nih",
            extra=extra,
        )


def _placed(
    path: Path, rows: list[tuple[str, Edges, None]], text: str, log: ConversionLog
) -> tuple[FindingBox, ...]:
    return boxes_in_pixels(
        path,
        rows,
        log,
        sentence_of=lambda label: sentence_of_label(label, text),
        size=(_SIDE, _SIDE),
    )


def _boxes(root: Path, log: ConversionLog) -> dict[str, list[tuple[str, Edges, None]]]:
    """Finding and edges of the boxes by image."""
    found: dict[str, list[tuple[str, Edges, None]]] = {}
    if not (root / _BOXES).is_file():
        return found
    columns = ("Image Index", "Finding Label", *_EDGES)
    for row in read_table(root / _BOXES, columns, filled=columns[:2], log=log):
        image_id, label = Path(row["Image Index"]).stem, row["Finding Label"]
        edges = edges_of(row, _EDGES, sized=True)
        if edges is None:
            log.leave_out("bad_box", image_id)
        else:
            found.setdefault(image_id, []).append((_OF_BOXES.get(label, label), edges, None))
    return found


def _subset_rows(root: Path, log: ConversionLog) -> Iterator[dict[str, Any]]:
    columns = ("image", "split", "patient", "labels", "sex", "age", "view")
    filled = ("image", "patient")
    for row in read_table(root / "metadata.csv", columns, filled=filled, once="image", log=log):
        path = root / row["image"]
        yield row | {"id": path.stem, "path": path, "split": parse_split(row["split"], row.where)}


def _public_rows(root: Path, log: ConversionLog) -> Iterator[dict[str, Any]]:
    tables = sorted(root.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise DataError(
            "neither Data_Entry_2017*.csv nor metadata.csv is here",
            where=root,
            remedy="Give the folder that NIH ChestX-ray14 was unpacked into",
            kind="missing_table",
        )
    split_of = {}
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        path = root / name
        if not path.is_file():
            raise DataError(
                "the official split list is missing",
                where=path,
                remedy="Download train_val_list.txt and test_list.txt beside the table",
                kind="missing_table",
            )
        split_of.update(dict.fromkeys(read_text(path).split(), split))
    paths = {path.name: path for path in root.glob("images*/**/*.png")}
    columns = (
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "View Position",
    )
    filled = ("Image Index", "Patient ID")
    for row in read_table(tables[-1], columns, filled=filled, once="Image Index", log=log):
        name = row["Image Index"]
        if name not in split_of:
            log.leave_out("in_no_official_split", name)
            continue
        yield {
            "id": Path(name).stem,
            "path": paths.get(name, root / "images" / name),
            "split": split_of[name],
            "patient": row["Patient ID"],
            "labels": row["Finding Labels"],
            "sex": row.get("Patient Gender") or row.get("Patient Sex"),
            "age": row["Patient Age"],
            "view": row["View Position"],
            "follow_up": row["Follow-up #"],
        }
