"""CANDID-PTX (Feng et al., 2021): New Zealand frontal images with reports and labels.

``Pneumothorax_reports.csv`` has ``SOPInstanceUID``, ``EncodedPixels`` (``-1`` without a
pneumothorax), ``Report`` and ``filename`` (``P123_...``, which names the patient), one or more
rows an image. ``chest_tube.csv`` and ``acute_rib_fracture.csv`` list the images with these
(``anon_SOPUID``). Images are named by their UID, with or without an ending, in ``dataset``,
``chest_radiographs``, ``images`` or the root. There is no official split.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import parse_report
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table

_FOLDERS = ("dataset", "chest_radiographs", "images", ".")
_ENDINGS = ("", ".dcm", ".png", ".jpg")
_LISTS = {"Chest Tube": "chest_tube.csv", "Rib Fracture": "acute_rib_fracture.csv"}


def read(root: Path, log: ConversionLog, *, keep_marks: bool = False) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the tables and the images.
        log: filled with what was left out or noted.
        keep_marks: leave ``<###>`` and ``!PERSONALNAME!`` in the texts.
    """
    listed = {
        label: {row["anon_SOPUID"] for row in read_table(root / name, ("anon_SOPUID",))}
        for label, name in _LISTS.items()
        if (root / name).is_file()
    }
    rows_of: dict[str, list[dict]] = {}
    columns = ("SOPInstanceUID", "EncodedPixels", "Report", "filename")
    filled = ("SOPInstanceUID", "filename")
    table = root / "Pneumothorax_reports.csv"
    for row in read_table(table, columns, filled=filled, log=log):
        rows_of.setdefault(row["SOPInstanceUID"], []).append(row)
    for uid, rows in rows_of.items():
        patients = {row["filename"].split("_")[0] for row in rows}
        if len(patients) > 1:
            log.leave_out("image_of_two_patients", uid)
            continue
        (patient,) = patients
        path = first_existing(
            *(root / folder / f"{uid}{end}" for folder in _FOLDERS for end in _ENDINGS)
        )
        if path is None:
            log.leave_out("image_missing", uid)
            continue
        if any(row["Report"] != rows[0]["Report"] for row in rows[1:]):
            log.note("report_versions_differ", uid)
        masks = [row["EncodedPixels"] for row in rows if row["EncodedPixels"]]
        labels: dict[str, float | None] = {
            "Pneumothorax": float(any(mask != "-1" for mask in masks)) if masks else None
        }
        labels |= {label: float(uid in uids) for label, uids in listed.items()}
        fields, extra = text_fields(
            parse_report(rows[0]["Report"]), uid, log, keep_marks=keep_marks
        )
        yield Study(
            study_id=uid,
            patient_id=patient,
            images=(StudyImage(str(path), "frontal"),),
            **fields,
            labels=labels,
            source="candid-ptx",
            extra=extra,
        )
