"""The COVID-19 image data collection (Cohen et al., 2020), as a folder with ``metadata.csv``.

Two layouts are read. The public one: ``patientid``, ``offset`` (days), ``sex``, ``age``,
``finding``, ``view``, ``modality`` (CT is left out), ``folder``, ``filename``, ``url``,
``license``, ``clinical_notes``; lung masks, made by a program, in
``annotations/lungVAE-masks/<name>_mask.png``. It has no official split.
And a subset: ``image`` (a path below the root), ``split``, ``patient``, ``offset``, ``sex``,
``age``, ``view``, ``finding``, ``license``, ``source_url``, ``notes``; lung masks are in
``lung_masks/<image's name>.png`` where there is one, and those of V7 Labs, which include the lung
behind the heart, in ``lung_masks_v7`` (structure ``lungs_v7``).

The Brixia scores of some images, by two readers (``S-A`` to ``S-F``, ``J-A`` to ``J-F``), are read
where they lie beside the table: ``public-annotations.csv`` of their publishers (Signoroni et al.,
2020; ``filename``), or ``severity.csv`` (``image``).

A lateral image joins the frontal image of the same patient, day and note to one study; every
other image is a study of its own. Some images are listed twice, under two patients in different
splits; they stay in the one that is held out, so that no test image is trained on. A patient's
earlier study, by ``offset``, is the prior. The notes are free text of many origins: only
sentences that describe the radiograph become findings (:mod:`llava_rad.data.image_sentences`);
without such sentences the scores do (:mod:`llava_rad.data.zone_template`).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import (
    first_existing,
    is_file,
    parse_age,
    parse_number,
    parse_sex,
    parse_split,
)
from llava_rad.data.image_sentences import image_sentences
from llava_rad.data.priors import add_priors
from llava_rad.data.study import SPLITS, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.data.template import TEMPLATE_NAME
from llava_rad.data.zone_template import ZONES, findings_from_zones
from llava_rad.readers import Row, read_columns
from llava_rad.views import view_of

_COLUMNS = ("image", "split", "patient", "offset", "sex", "age", "view", "finding", "notes")
_PUBLIC = (
    "patientid",
    "offset",
    "sex",
    "age",
    "finding",
    "view",
    "modality",
    "folder",
    "filename",
    "url",
    "license",
    "clinical_notes",
)
_SCORES = ("public-annotations.csv", "severity.csv")
# Structure -> where its mask of an image may lie.
_MASKS = {
    "lungs": ("lung_masks/{}.png", "annotations/lungVAE-masks/{}_mask.png"),
    "lungs_v7": ("lung_masks_v7/{}.png",),
}


def read(root: Path, log: ConversionLog) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with ``metadata.csv``.
        log: filled with what was left out or noted.
    """
    studies: list[Study] = []
    scores = _zone_scores(root)
    days: dict[str, tuple[float, ...]] = {}
    for row, *lateral in _examinations(root, log):
        study_id = row["id"]
        findings = image_sentences(row["notes"])
        reason = ""
        if findings is None:
            reason = "notes_describe_no_image" if row["notes"] else "notes_empty"
            log.note(reason, study_id)
        source = "sentences of the note that describe the image" if findings else ""
        zones = scores.get(Path(row["image"]).name)
        if findings is None and zones is not None:
            findings, source = findings_from_zones(zones, study_id), TEMPLATE_NAME
        age = parse_age(row["age"])
        if age is None:
            log.note("no_usable_age", study_id)
        extra = {
            "diagnosis": row["finding"] if row["finding"] != "todo" else "",
            "license": row.get("license", ""),
            "source_url": row.get("source_url", ""),
            "note": row["notes"],
            "no_findings_reason": reason,
            "findings_from": source,
            **{f"brixia_{zone}": f"{score:g}" for zone, score in (zones or {}).items()},
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
    for row in _rows(root / "metadata.csv", log):
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


def _rows(table: Path, log: ConversionLog) -> Iterator[Row]:
    """The rows of either layout, in the words of the subset, each with the id of its study."""
    if not table.is_file() or "filename" not in read_columns(table):
        for row in read_table(table, _COLUMNS, filled=("image", "patient"), log=log):
            row["id"] = Path(row["image"]).stem
            yield row
        return
    for row in read_table(table, _PUBLIC, filled=("filename", "patientid"), log=log):
        if row["modality"] not in ("", "X-ray"):
            log.leave_out("no_radiograph", row["filename"])
            continue
        row |= {
            "id": row["filename"],  # two images may differ by their ending alone
            "image": f"{row['folder'] or 'images'}/{row['filename']}",
            "patient": row["patientid"],
            "split": "",
            "source_url": row["url"],
            "notes": row["clinical_notes"],
        }
        yield row


def _zone_scores(root: Path) -> dict[str, dict[str, float]]:
    """Brixia scores of the zones, the mean of the readers, by the image's name."""
    table = first_existing(*(root / name for name in _SCORES))
    if table is None:
        return {}
    column = "filename" if table.name == _SCORES[0] else "image"
    found: dict[str, dict[str, float]] = {}
    for row in read_table(table, (column,)):
        read = {
            zone: [
                score
                for who in "SJ"
                if (score := parse_number(row.get(f"{who}-{zone}", ""))) is not None
            ]
            for zone in ZONES
        }
        if all(read.values()):
            found[Path(row[column]).name] = {zone: sum(s) / len(s) for zone, s in read.items()}
    return found


def _held_out(row: Row) -> int:
    """How far a row's split is from training: of two rows for one image the farther one stays."""
    split = parse_split(row["split"], row.where)
    return SPLITS.index(split) if split else -1


def _image(root: Path, row: dict) -> StudyImage:
    path = root / row["image"]
    masks = {
        name: first_existing(*(root / place.format(path.stem) for place in places))
        for name, places in _MASKS.items()
    }
    return StudyImage(
        str(path),
        view_of(row["view"]),
        row["view"] if row["view"] != "?" else None,
        {name: str(mask) for name, mask in masks.items() if mask is not None},
    )
