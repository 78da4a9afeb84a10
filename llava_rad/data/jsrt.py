"""JSRT (Shiraishi et al., 2000): PA images, 154 with one lung nodule that CT confirmed; no reports.

Two layouts are read. The public one: ``CLNDAT_EN.txt`` and ``CNNDAT_EN.TXT`` (tabs between file,
subtlety, size in mm, age, sex, x, y, nature, place and diagnosis; of images without a nodule file,
age, sex and nature), the images ``JPCLN001`` to ``JPCNN093`` anywhere below the root as DICOM, PNG,
TIFF or JPEG, and, where they were unpacked there too, the masks of SCR (van Ginneken et al., 2006)
in ``fold1/masks/left lung/JPCLN001.gif`` and so on. And a subset: ``metadata.csv`` with the columns
``image, split, patient, labels, sex, age, view, nodule_mm, subtlety_1_5, nodule_x, nodule_y,
nature, location, diagnosis``, and masks in ``masks/JPCLN001_left_lung.png``.

An image is one patient's. Size, subtlety (5 is obvious), place and nature of the nodule are further
facts of the study; x and y are pixels, of 2048 x 2048 in the public tables. With the size they make
the nodule's box: a pixel of the 2048 is 0.175 mm wide, whatever the size of the files here. The
findings text says whether there is a nodule, its lobe and whether it is large
(:mod:`llava_rad.data.nodule_template`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_rad.boxes import Box
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    is_file,
    parse_age,
    parse_number,
    parse_sex,
    parse_split,
)
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.image_files import IMAGE_ENDINGS
from llava_rad.data.nodule_template import findings_from_nodule
from llava_rad.data.pixel_boxes import size_of_picture
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.data.template import TEMPLATE_NAME
from llava_rad.errors import DataError
from llava_rad.readers import read_text

STRUCTURES = ("left_lung", "right_lung", "heart", "left_clavicle", "right_clavicle")
NODULE = "Nodule"
_SIDE = 2048  # pixels of the published images
_FILM = _SIDE * 0.175  # millimetres

_SUBSET = (
    "image",
    "split",
    "patient",
    "labels",
    "sex",
    "age",
    "view",
    "nodule_mm",
    "subtlety_1_5",
    "nodule_x",
    "nodule_y",
    "nature",
    "location",
    "diagnosis",
)
# The public tables have no header.
_WITH_NODULE = (
    "image",
    "subtlety_1_5",
    "nodule_mm",
    "age",
    "sex",
    "nodule_x",
    "nodule_y",
    "nature",
    "location",
    "diagnosis",
)
_WITHOUT = ("image", "age", "sex", "nature")
_FACTS = ("nodule_mm", "subtlety_1_5", "nodule_x", "nodule_y", "nature", "location", "diagnosis")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder it was unpacked into.
        log: filled with what was left out or noted.
    """
    rows = _subset_rows(root, log) if (root / "metadata.csv").is_file() else _public_rows(root)
    for row in rows:
        name = row["id"]
        if row["path"] is None or not is_file(row["path"]):
            log.leave_out("image_missing", name)
            continue
        age = parse_age(row["age"])
        if age is None:
            log.note("no_usable_age", name)
        extra = {fact: row[fact] for fact in _FACTS if row.get(fact)}
        text = findings_from_nodule(row["nodule"], extra, name)
        boxes = _box(row, text, log) if row["nodule"] else ()
        yield Study(
            study_id=name,
            patient_id=row["patient"],
            split=row["split"],
            images=(StudyImage(str(row["path"]), "frontal", "PA", row["masks"], boxes),),
            findings=text,
            labels={NODULE: float(row["nodule"])},
            sex=parse_sex(row["sex"]),
            age=age,
            source="jsrt",
            extra={**extra, "findings_from": TEMPLATE_NAME},
        )


def _box(row: dict[str, Any], text: str, log: ConversionLog) -> tuple[FindingBox, ...]:
    """The square around the nodule; the findings are one sentence, about it."""
    numbers = [parse_number(row.get(name)) for name in ("nodule_x", "nodule_y", "nodule_mm")]
    x, y, size = numbers
    if x is None or y is None or size is None or size <= 0:
        log.note("nodule_without_box", row["id"])
        return ()
    picture = row["size"] or size_of_picture(row["path"], log)
    if picture is None:
        return ()
    side = size / _FILM
    try:
        box = Box.around(x / picture[0], y / picture[1], side, side)
    except DataError:
        log.leave_out("bad_box", row["id"])
        return ()
    return (FindingBox(NODULE, box, text),)


def _subset_rows(root: Path, log: ConversionLog) -> Iterator[dict[str, Any]]:
    filled = ("image", "patient", "labels")
    for row in read_table(root / "metadata.csv", _SUBSET, filled=filled, once="image", log=log):
        path = root / row["image"]
        if row["labels"] not in (NODULE, f"No {NODULE.lower()}"):
            log.leave_out("unknown_label", path.stem)
            continue
        masks = {name: root / "masks" / f"{path.stem}_{name}.png" for name in STRUCTURES}
        yield row | {
            "id": path.stem,
            "path": path,
            "split": parse_split(row["split"], row.where),
            "nodule": row["labels"] == NODULE,
            "size": None,
            "masks": {name: str(file) for name, file in masks.items() if is_file(file)},
        }


def _public_rows(root: Path) -> Iterator[dict[str, Any]]:
    images = {
        path.stem: path
        for path in sorted(root.rglob("JPC[LN]N*"))
        if path.suffix.lower() in IMAGE_ENDINGS and path.parent.name not in _FOLDERS
    }
    masks: dict[str, dict[str, str]] = {}
    for folder, structure in _FOLDERS.items():
        for path in sorted(root.rglob(f"{folder}/JPC*.gif")):
            masks.setdefault(path.stem, {})[structure] = str(path)
    for table, columns, nodule in (
        ("CLNDAT_EN", _WITH_NODULE, True),
        ("CNNDAT_EN", _WITHOUT, False),
    ):
        file = first_existing(root / f"{table}.txt", root / f"{table}.TXT")
        if file is None:
            raise DataError(
                f"neither metadata.csv nor {table}.txt is here",
                where=root,
                remedy="Give the folder with JSRT's clinical information and images",
                kind="missing_table",
            )
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            cells = [cell.strip() for cell in line.split("\t")]
            if not any(cells):
                continue
            if len(cells) < len(columns):
                raise DataError(
                    f"the line has {len(cells)} columns, {len(columns)} were expected",
                    where=f"{file}:{number}",
                    remedy="Restore the table",
                    kind="bad_row",
                )
            name = Path(cells[0]).stem
            yield dict(zip(columns, cells, strict=False)) | {
                "id": name,
                "patient": name,
                "path": images.get(name),
                "split": None,
                "nodule": nodule,
                "size": (_SIDE, _SIDE),
                "masks": masks.get(name, {}),
            }


_FOLDERS = {structure.replace("_", " "): structure for structure in STRUCTURES}
