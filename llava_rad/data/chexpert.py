"""CheXpert (Irvin et al., 2019): images with labels that were taken from reports; no reports.

Layout: ``train.csv`` and ``valid.csv`` (``Path, Sex, Age, Frontal/Lateral, AP/PA`` and the 14
observations; 1, 0, -1 for uncertain, empty where the report does not say), a row an image. ``Path``
is ``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`` or the same in
``CheXpert-v1.0``; the folder in front does not count. The root is that folder, or the one with the
four parts of the full set, ``CheXpert-v1.0 batch 1 (validate & csv)`` and so on, each unpacked.

The test set (500 studies of 500 patients, labels by radiologists) was published later. Its labels
are read where they lie in the root: ``groundtruth.csv`` (``Study`` and the 14; a study's images are
all in ``test/patient64741/study1``), or CheXlocalize's ``test_labels.csv`` (``Path`` and the 14).

The images of one study make one study; a patient is a folder. CheXpert Plus holds the same patients
under the same names, with their reports.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from llava_rad.data.chexpert_labels import parse_chexpert_labels
from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing, frontal_first, parse_age, parse_sex
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError, shown
from llava_rad.observations import OBSERVATIONS
from llava_rad.readers import Row
from llava_rad.views import view_of

_BATCHES = "CheXpert-v1.0 batch *"
# Table, its column of paths, and its split; the first of each split is read.
_TABLES: tuple[tuple[str, str, Split], ...] = (
    ("train.csv", "Path", "train"),
    ("valid.csv", "Path", "validation"),
    ("groundtruth.csv", "Study", "test"),
    ("test_labels.csv", "Path", "test"),
)
_STUDY = re.compile(r"(?:.*/)?((?:train|valid|test)/(patient\d+)/study\d+)(?:/([^/]+))?")


def read(root: Path, log: ConversionLog, *, images: str = "") -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the tables, or with the four parts of the full set.
        log: filled with what was left out or noted.
        images: the folder that holds ``train``, ``valid`` and ``test``, where it is another one.
    """
    batches = sorted(root.glob(_BATCHES))
    folders = [Path(images)] if images else [root, *batches]
    splits: set[Split] = set()
    for name, column, split in _TABLES:
        table = first_existing(*(folder / name for folder in (root, *batches)))
        if table is not None and split not in splits:
            splits.add(split)
            yield from _studies(table, column, split, folders, log)
    if not splits:
        raise DataError(
            f"none of {', '.join(name for name, _, _ in _TABLES)} is here",
            where=root,
            remedy="Give the folder CheXpert-v1.0 or CheXpert-v1.0-small",
            kind="missing_table",
        )


def _studies(
    table: Path, column: str, split: Split, folders: Sequence[Path], log: ConversionLog
) -> Iterator[Study]:
    rows_of: dict[str, list[tuple[Row, str | None]]] = {}
    patients: dict[str, str] = {}
    columns = (column, *OBSERVATIONS)
    for row in read_table(table, columns, filled=(column,), once=column, log=log):
        found = _STUDY.fullmatch(row[column])
        if found is None:
            raise DataError(
                f"{column} is {shown(row[column])}",
                where=row.where,
                remedy="It ends as train/patient00001/study1/view1_frontal.jpg does",
                kind="bad_row",
            )
        rows_of.setdefault(found[1], []).append((row, found[3]))
        patients[found[1]] = found[2]
    for study_id, members in rows_of.items():
        images = _images(study_id, members, folders, log)
        if not images:
            log.leave_out("no_image", study_id)
            continue
        first = members[0][0]
        labels = parse_chexpert_labels(first)
        if any(parse_chexpert_labels(row) != labels for row, _ in members):
            log.note("labels_of_images_differ", study_id)
        yield Study(
            study_id=study_id,
            patient_id=patients[study_id],
            split=split,
            images=frontal_first(images),
            labels=labels,
            sex=parse_sex(first.get("Sex")),
            age=parse_age(first.get("Age")) or None,  # 0 where it is not known
            source="chexpert",
        )


def _images(
    study_id: str,
    members: Sequence[tuple[Row, str | None]],
    folders: Sequence[Path],
    log: ConversionLog,
) -> list[StudyImage]:
    """The images of a study: those of its rows, or all in its folder where a row is a study."""
    places = [place for folder in folders for place in _places(folder, study_id)]
    images = []
    for row, name in members:
        if name is None:
            paths = next((found for place in places if (found := sorted(place.glob("*.jpg")))), [])
        else:
            path = first_existing(*(place / name for place in places))
            paths = [] if path is None else [path]
        if not paths:
            log.leave_out("image_missing", f"{study_id}/{name or '*'}")
        for path in paths:
            side = row.get("Frontal/Lateral") or path.stem  # view1_frontal
            position = row.get("AP/PA") or row.get("Frontal/Lateral") or None
            images.append(StudyImage(str(path), view_of(side), position))
    return images


def _places(folder: Path, study_id: str) -> list[Path]:
    """Where a study may lie: the parts with training images hold the patients themselves."""
    in_split = PurePosixPath(study_id)
    return [folder / in_split, folder / in_split.relative_to(in_split.parts[0])]
