"""Chest X-rays of children of 1 to 5 years (Kermany et al., 2018); no reports.

Normal, bacterial and viral pneumonia.

Two layouts are read. The public one: ``train``, ``val`` and ``test``, each with ``NORMAL`` and
``PNEUMONIA``, where ``person7_bacteria_20.jpeg`` is of patient 7 and other names are patients of
their own (``IM-0117-0001.jpeg`` and ``IM-0117-0001-0002.jpeg`` are one). ``test`` numbers its
patients anew. And a subset: ``metadata.csv`` with the columns ``image, split, patient, labels,
view, lung_mask``, where ``image`` and ``lung_mask`` are paths below the root.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import is_file, parse_split
from llava_rad.data.image_files import IMAGE_ENDINGS
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError
from llava_rad.views import view_of

_KINDS = ("bacterial", "viral")
LABELS = ("Pneumonia", *_KINDS, "No Finding")

_PERSON = re.compile(r"person(\d+)_(bacteria|virus)_\d+")
_NORMAL = re.compile(r"((?:NORMAL2-)?IM-\d+)-\d+.*")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder it was unpacked into.
        log: filled with what was left out or noted.
    """
    rows = _subset_rows(root, log) if (root / "metadata.csv").is_file() else _public_rows(root, log)
    for row in rows:
        name = row["id"]
        unknown = row["labels"] - set(LABELS)
        if unknown or not row["labels"]:
            log.leave_out("unknown_label" if unknown else "no_label", name)
            continue
        if not is_file(row["path"]):
            log.leave_out("image_missing", name)
            continue
        mask = row["mask"]
        yield Study(
            study_id=name,
            patient_id=row["patient"],
            split=row["split"],
            images=(
                StudyImage(
                    str(row["path"]),
                    view_of(row["view"]),
                    row["view"],
                    {"lungs": str(mask)} if mask and is_file(mask) else {},
                ),
            ),
            labels=_labels(row["labels"]),
            source="kermany",
        )


def _labels(present: set[str]) -> dict[str, float | None]:
    """Labels of an image; of a pneumonia of unstated kind both kinds are unknown."""
    labels: dict[str, float | None] = {name: float(name in present) for name in LABELS}
    if "Pneumonia" in present and present.isdisjoint(_KINDS):
        labels |= dict.fromkeys(_KINDS)
    return labels


def _subset_rows(root: Path, log: ConversionLog) -> Iterator[dict[str, Any]]:
    columns = ("image", "split", "patient", "labels", "view", "lung_mask")
    filled = ("image", "patient")
    for row in read_table(root / "metadata.csv", columns, filled=filled, once="image", log=log):
        path = root / row["image"]
        yield {
            "id": path.stem,
            "patient": row["patient"],
            "path": path,
            "split": parse_split(row["split"], row.where),
            "view": row["view"],
            "labels": {name.strip() for name in row["labels"].split("|") if name.strip()},
            "mask": root / row["lung_mask"] if row["lung_mask"] else None,
        }


def _public_rows(root: Path, log: ConversionLog) -> Iterator[dict[str, Any]]:
    found = False
    for folder in ("train", "val", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            for path in sorted((root / folder / kind).glob("*")):
                if path.suffix.lower() not in IMAGE_ENDINGS:
                    continue
                found = True
                person, normal = _PERSON.match(path.stem), _NORMAL.match(path.stem)
                if person is None and kind == "PNEUMONIA":
                    log.note("unknown_name", path.stem)
                patient, labels = path.stem, {"No Finding"}
                if kind == "PNEUMONIA":
                    labels = {"Pneumonia"}
                if person is not None:
                    labels |= {"bacterial" if person[2] == "bacteria" else "viral"}
                    patient = f"person{person[1]}"
                elif normal is not None:
                    patient = normal[1]
                numbered_anew = "test-" if folder == "test" else ""
                yield {
                    "id": f"{numbered_anew}{path.stem}",
                    "patient": f"{numbered_anew}{patient}",
                    "path": path,
                    "split": parse_split(folder),
                    "view": "AP",
                    "labels": labels,
                    "mask": None,
                }
    if not found:
        raise DataError(
            "neither metadata.csv nor images in train, val and test are here",
            where=root,
            remedy="Give the folder chest_xray that the data set was unpacked into",
            kind="missing_table",
        )
