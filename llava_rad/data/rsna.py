"""RSNA Pneumonia Detection Challenge (Shih et al., 2019): frontal images with boxes, no reports.

Layout: ``stage_2_train_labels.csv`` (``patientId, x, y, width, height, Target``, a row a box; one
without numbers where there is no opacity), ``stage_2_train_images/<patientId>.dcm`` (``.png`` and
``.jpg`` are found too) and, where it is there, ``stage_2_detailed_class_info.csv`` (``patientId,
class``), which tells normal images from other ones without an opacity. The test images have no
labels. Boxes are in pixels of the images' 1024 x 1024.

The images are NIH ChestX-ray14's: none belongs beside a test of that set. ``patientId`` names an
image. Which patients they are of says RSNA's ``pneumonia-challenge-dataset-mappings_2018.json`` (a
list with ``subset_img_id``, the ``patientId``, and ``img_id``, NIH's name), where it lies in the
root; without it each image counts as a patient of its own. There is no official split.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing
from llava_rad.data.finding_box import FindingBox
from llava_rad.data.label_template import NO_FINDING, findings_from_labels
from llava_rad.data.pixel_boxes import Edges, boxes_in_pixels, edges_of
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.data.template import TEMPLATE_NAME, Statement, compose
from llava_rad.errors import DataError, shown
from llava_rad.readers import read_json

OPACITY = "Lung Opacity"
_ENDINGS = (".dcm", ".png", ".jpg")
_EDGES = ("x", "y", "width", "height")
_SIDE = 1024.0  # pixels
_NIH_NAMES = "pneumonia-challenge-dataset-mappings_2018.json"
_ONE: Statement = (
    "There is a lung opacity.",
    "A lung opacity is present.",
    "An opacity is seen in the lung.",
)
_SEVERAL: Statement = (
    "There are lung opacities.",
    "Lung opacities are present.",
    "Opacities are seen in the lungs.",
)


def read(root: Path, log: ConversionLog, *, template_findings: bool = True) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder it was unpacked into.
        log: filled with what was left out or noted.
        template_findings: make findings text of opacities and of normal images; an image that is
            neither has none.
    """
    classes, nih_names = _classes(root, log), _nih_names(root)
    boxes: dict[str, list[tuple[str, Edges, None]]] = {}
    opacities: Counter[str] = Counter()  # those too whose box cannot be read
    columns = ("patientId", *_EDGES, "Target")
    for row in read_table(root / "stage_2_train_labels.csv", columns, filled=columns[:1], log=log):
        name = row["patientId"]
        found = boxes.setdefault(name, [])
        if row["Target"] not in ("0", "1"):
            raise DataError(
                f"Target is {shown(row['Target'])}",
                where=row.where,
                remedy="It is 0 or 1",
                kind="bad_row",
            )
        if row["Target"] == "0":
            continue
        opacities[name] += 1
        edges = edges_of(row, _EDGES, sized=True)
        if edges is None:
            log.leave_out("bad_box", name)
        else:
            found.append((OPACITY, edges, None))
    for name, rows in boxes.items():
        folder = root / "stage_2_train_images"
        path = first_existing(*(folder / f"{name}{end}" for end in _ENDINGS))
        if path is None:
            log.leave_out("image_missing", name)
            continue
        text = _text(name, opacities[name], classes.get(name)) if template_findings else None
        placed = _placed(path, rows, text, log)
        labels = {OPACITY: float(opacities[name] > 0)}
        if name in classes:
            labels[NO_FINDING] = float(classes[name] == "Normal")
        nih_name = nih_names.get(name)
        if nih_name is None:
            log.note("patient_not_known", name)
        extra = {"findings_from": TEMPLATE_NAME} if text else {"no_findings_reason": "no_text"}
        yield Study(
            study_id=name,
            patient_id=_nih_patient(nih_name) if nih_name else name,
            images=(StudyImage(str(path), "frontal", boxes=placed),),
            findings=text,
            labels=labels,
            source="rsna",
            extra=extra | ({"nih_image": nih_name} if nih_name else {}),
        )


def _placed(
    path: Path, rows: Sequence[tuple[str, Edges, None]], text: str | None, log: ConversionLog
) -> tuple[FindingBox, ...]:
    """The boxes; the text of an image with opacities is one sentence, about them."""
    return boxes_in_pixels(path, rows, log, sentence_of=lambda _: text, size=(_SIDE, _SIDE))


def _text(name: str, opacities: int, of_class: str | None) -> str | None:
    if opacities:
        return compose([_ONE if opacities == 1 else _SEVERAL], name)
    return findings_from_labels([NO_FINDING], name) if of_class == "Normal" else None


def _classes(root: Path, log: ConversionLog) -> dict[str, str]:
    table = root / "stage_2_detailed_class_info.csv"
    if not table.is_file():
        return {}
    columns = ("patientId", "class")
    rows = read_table(table, columns, filled=columns, log=log)
    return {row["patientId"]: row["class"] for row in rows}


def _nih_names(root: Path) -> dict[str, str]:
    """NIH's name of each image, ``00013774_026.png``."""
    path = root / _NIH_NAMES
    if not path.is_file():
        return {}
    found = {}
    for entry in read_json(path, expect=list):
        names = (entry.get("subset_img_id"), entry.get("img_id")) if isinstance(entry, dict) else ()
        if not names or not all(isinstance(name, str) and name for name in names):
            raise DataError(
                f"an entry is {shown(entry)}",
                where=path,
                remedy="Download the file again: each names subset_img_id and img_id",
                kind="bad_row",
            )
        found[str(names[0])] = Path(str(names[1])).stem
    return found


def _nih_patient(name: str) -> str:
    """NIH's Patient ID, which its images' names begin with."""
    return re.sub(r"^0+(?=\d)", "", name.split("_")[0])
