"""ReXrank's files of predictions: read to be scored, written to be submitted.

A file is an object of studies by id, each with the leaderboard's own fields and
``model_prediction``. References are 'Findings: ... Impression: ...' of its two sections.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_rad.data.rexrank import ROW, SECTIONS, patient_of, read_rows, sections_of
from llava_rad.data.study import Study
from llava_rad.data.targets import headed_report
from llava_rad.errors import DataError
from llava_rad.outputs import write_result

PREDICTION = "model_prediction"


def holds_rexrank(path: Path) -> bool:
    """Whether a ``.json`` file is one object of objects, rather than JSON lines under that name.

    One study with a prediction is enough: what else is wrong with the file is told as such.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    rows = [row for row in value.values() if isinstance(row, dict)]
    return len(rows) == len(value) or any(PREDICTION in row for row in rows)


def rexrank_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and study, fields) of a file of predictions, as other files have them.

    Raises:
        DataError: it is not ReXrank's, or a study has no prediction or no section.
    """
    for study_id, row in read_rows(path).items():
        where = f"{path.name}, study {study_id}"
        if not isinstance(row.get(PREDICTION), str):
            raise DataError(
                f"there is no text '{PREDICTION}'",
                where=where,
                remedy="Give a file of predictions in ReXrank's form, or JSON lines",
                kind="missing_field",
            )
        if not any(name in row for name in SECTIONS):
            raise DataError(
                "there are no true texts",
                where=where,
                remedy="Give each study its section_findings and section_impression, null where "
                "there is none",
                kind="missing_field",
            )
        yield (
            where,
            {
                "id": study_id,
                "prediction": row[PREDICTION],
                "reference": headed_report(*sections_of(row, where)),
                "patient_id": patient_of(study_id, row),
                "section": "findings_and_impression",
            },
        )


def write_submission(path: Path, studies: list[Study], texts: Mapping[str, str]) -> None:
    """Write the file that ReXrank takes.

    Studies of the adapter ``rexrank`` keep all fields of their file; of others those that ReXrank
    documents are made, with the images' names in place of their paths.

    Args:
        path: of the file.
        studies: in the order of the file.
        texts: what a model wrote, by study id; studies without are left out.

    Raises:
        DataError: the file cannot be written.
    """
    rows = {
        study.study_id: {**_fields(study), PREDICTION: texts[study.study_id]}
        for study in studies
        if study.study_id in texts
    }
    write_result(path, json.dumps(rows, indent=4, ensure_ascii=False) + "\n")


def is_submission(path: Path) -> bool:
    """Whether a file is one of :func:`write_submission`'s."""
    try:
        rows = [*read_rows(path).values()] if holds_rexrank(path) else []
    except DataError:
        return False
    return bool(rows) and all(PREDICTION in row for row in rows)


def _fields(study: Study) -> dict[str, Any]:
    if ROW in study.extra:
        row: dict[str, Any] = json.loads(study.extra[ROW])
        return row
    age = "" if study.age is None else f"Age:{study.age:g}."
    sex = "" if study.sex is None else f"Gender:{study.sex}."
    names = [Path(image.path).name for image in study.images]
    return {
        "image_path": names,
        "key_image_path": names[0] if names else None,
        "frontal_lateral": [image.view for image in study.images],
        "context": f"{age}{sex}Indication: {study.indication} Comparison: {study.comparison}",
        "split": study.split,
        "report": headed_report(study.findings, study.impression),
        "section_findings": study.findings,
        "section_impression": study.impression,
    }
