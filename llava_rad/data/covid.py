"""The COVID-19 image data collection (Cohen et al., 2020), as a folder with ``metadata.csv``.

Columns: ``image`` (a path below the root), ``split``, ``patient``, ``offset`` (days), ``sex``,
``age``, ``view``, ``finding``, ``license``, ``source_url``, ``notes``; lung masks are in
``lung_masks/<image's name>.png`` where there is one.

A lateral image joins the frontal image of the same patient, day and note to one study; every
other image is a study of its own. Some images are listed twice, under two patients in different
splits; they stay in the one that is held out, so that no test image is trained on. A patient's
earlier study, by ``offset``, is the prior. The notes are free text of many origins: only
sentences that describe the radiograph become findings (:mod:`llava_rad.data.image_sentences`).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import is_file, parse_age, parse_number, parse_sex, parse_split
from llava_rad.data.image_sentences import image_sentences
from llava_rad.data.priors import add_priors
from llava_rad.data.study import SPLITS, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.readers import Row
from llava_rad.views import view_of

_COLUMNS = ("image", "split", "patient", "offset", "sex", "age", "view", "finding", "notes")


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``metadata.csv``.
        log: filled with what was left out or noted.
    """
    studies: list[Study] = []
    days: dict[str, tuple[float, ...]] = {}
    for row, *lateral in _examinations(root, log):
        study_id = Path(row["image"]).stem
        findings = image_sentences(row["notes"])
        reason = ""
        if findings is None:
            reason = "notes_describe_no_image" if row["notes"] else "notes_empty"
            log.note(reason, study_id)
        age = parse_age(row["age"])
        if age is None:
            log.note("no_usable_age", study_id)
        extra = {
            "diagnosis": row["finding"] if row["finding"] != "todo" else "",
            "license": row.get("license", ""),
            "source_url": row.get("source_url", ""),
            "note": row["notes"],
            "no_findings_reason": reason,
            "findings_from": "sentences of the note that describe the image" if findings else "",
        }
        studies.append(
            Study(
                study_id=study_id,
                patient_id=row["patient"],
                split=parse_split(row["split"], row.where),
                images=tuple(_image(root, image) for image in (row, *lateral)),
                findings=findings,
                sex=parse_sex(row["sex"]),
                age=age,
                source="covid",
                extra={name: value for name, value in extra.items() if value},
            )
        )
        day = parse_number(row["offset"])  # none where it is empty or "?"
        if day is not None:
            days[study_id] = (day,)
    yield from add_priors(studies, days, log)


def _examinations(root: Path, log: ConversionLog) -> Iterator[list[Row]]:
    listed: dict[str, Row] = {}
    filled = ("image", "patient")
    for row in read_table(root / "metadata.csv", _COLUMNS, filled=filled, log=log):
        image = row["image"]
        if not is_file(root / image):
            log.leave_out("image_missing", image)
            continue
        if image in listed:
            log.leave_out("image_listed_twice", image)
            row = max(listed[image], row, key=_held_out)
        listed[image] = row
    rows = list(listed.values())

    def key(row: dict) -> tuple[str, str, str]:
        return row["patient"], row["offset"], row["notes"]

    views = Counter((key(row), view_of(row["view"])) for row in rows)
    laterals: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        of_one_study = (
            row["notes"]
            and views[key(row), "frontal"] == 1
            and views[key(row), "lateral"] == 1
            and view_of(row["view"]) == "lateral"
        )
        if of_one_study:
            laterals[key(row)] = row
    for row in rows:
        partner = laterals.get(key(row))
        if partner is row:
            continue
        if partner is not None and view_of(row["view"]) == "frontal":
            yield [row, partner]
        else:
            yield [row]


def _held_out(row: Row) -> int:
    """How far a row's split is from training: of two rows for one image the farther one stays."""
    split = parse_split(row["split"], row.where)
    return SPLITS.index(split) if split else -1


def _image(root: Path, row: dict) -> StudyImage:
    path = root / row["image"]
    mask = root / "lung_masks" / f"{path.stem}.png"
    return StudyImage(
        str(path),
        view_of(row["view"]),
        row["view"] if row["view"] != "?" else None,
        {"lungs": str(mask)} if is_file(mask) else {},
    )
