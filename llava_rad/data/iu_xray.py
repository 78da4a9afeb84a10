"""IU X-ray as R2Gen prepared it (Chen et al., 2020): ``annotation.json`` and ``images``.

``annotation.json`` has the lists ``train``, ``val`` and ``test`` of ``{"id", "report",
"image_path": ["CXR2384_IM-0942/0.png", "CXR2384_IM-0942/1.png"], "split"}``. The report is the
findings text; the first image is the frontal view and the second the lateral one. There are no
patient ids: each study counts as a patient of its own.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import parse_split
from llava_rad.data.report_text import text_fields
from llava_rad.data.sections import ReportSections, tidy
from llava_rad.data.study import Study, StudyImage, View
from llava_rad.errors import DataError

_VIEWS: tuple[View, View] = ("frontal", "lateral")


def read(root: Path, log: ConversionLog, *, keep_marks: bool = False) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``annotation.json`` and ``images``.
        log: filled with what was left out or noted.
        keep_marks: leave ``XXXX`` in the texts.
    """
    path = root / "annotation.json"
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))
        rows = [(split, row) for split, rows in annotations.items() for row in rows]
    except FileNotFoundError as error:
        raise DataError(
            "the annotation file is missing",
            where=path,
            remedy="Give the folder iu_xray of R2Gen's data",
            kind="missing_table",
        ) from error
    except (json.JSONDecodeError, AttributeError, TypeError) as error:
        raise DataError(
            f"not R2Gen's annotations ({error})", where=path, kind="bad_file"
        ) from error
    for split, row in rows:
        study_id, report = str(row.get("id", "")), tidy(row.get("report") or "")
        images = []
        for view, name in zip(_VIEWS, row.get("image_path") or (), strict=False):
            if (root / "images" / name).is_file():
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
