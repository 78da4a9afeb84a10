"""IU X-ray as R2Gen prepared it (Chen et al., 2020): ``annotation.json`` and ``images``.

``annotation.json`` has the lists ``train``, ``val`` and ``test`` of ``{"id", "report",
"image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"], "split"}``. The report is the
findings text; the first image is the frontal view and the second the lateral one. There are no
patient ids: each study counts as a patient of its own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import is_file, parse_split
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, tidy
from llava_rad.data.study import Study, StudyImage, View
from llava_rad.errors import DataError, shown
from llava_rad.readers import is_missing, read_json

_VIEWS: tuple[View, View] = ("frontal", "lateral")


def read(root: Path, log: ConversionLog, *, keep_marks: bool = False) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``annotation.json`` and ``images``.
        log: filled with what was left out or noted.
        keep_marks: leave ``XXXX`` in the texts.
    """
    path = root / "annotation.json"
    annotations = read_json(
        path,
        expect=dict,
        failure="the annotation file is missing or cannot be read",
        remedy="Give the folder iu_xray of R2Gen's data",
        kind="missing_table",
    )
    rows = [(split, row) for split, rows in annotations.items() for row in _rows(rows, split, path)]
    for split, row in rows:
        study_id, report = str(row.get("id", "")), tidy(_text(row, "report", path))
        images = []
        for view, name in zip(_VIEWS, _paths(row, path), strict=False):
            if is_file(root / "images" / name):
                images.append(StudyImage(str(root / "images" / name), view))
            else:
                log.leave_out("image_missing", name)
        if not images:
            log.leave_out("no_image", study_id)
            continue
        sections = ReportSections(
            findings=report or None, no_findings_reason=None if report else "no_text"
        )
        fields, extra = text_fields(sections, study_id, log, keep_marks=keep_marks)
        yield Study(
            study_id=study_id,
            patient_id=study_id,
            split=parse_split(split),
            images=tuple(images),
            **fields,
            source="iu-xray",
            extra=extra,
        )


def _rows(rows: Any, split: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _wrong(f"{shown(split)} is not a list of objects", path)
    return rows


def _text(row: dict[str, Any], name: str, path: Path) -> str:
    value = row.get(name)
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise _wrong(f"{name} of {shown(row.get('id'))} is {shown(value)}", path)
    return value


def _paths(row: dict[str, Any], path: Path) -> list[str]:
    names = row.get("image_path") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(f"image_path of {shown(row.get('id'))} is {shown(names)}", path)
    return names


def _wrong(what: str, path: Path) -> DataError:
    remedy = "Give the folder iu_xray of R2Gen's data"
    return DataError(
        f"not R2Gen's annotations ({what})", where=path, remedy=remedy, kind="bad_file"
    )
