"""ReXGradient-160K (Zhang et al., 2025): images and reports of 79 sites, with its three splits.

Layout: ``metadata/train_metadata_view_position.json``, ``valid_...`` and ``test_...`` (also in the
root), each an object of studies by id with ``PatientID``, ``PatientSex``, ``PatientAge``
(``"045Y"``), ``StudyDate``, ``ImagePath`` and ``ImageViewPosition`` (lists), ``Indication``,
``Comparison``, ``Findings`` and ``Impression``; the tables ``train_metadata.csv`` beside them name
no images. ``ImagePath`` is ``../deid_png/<patient>/<accession>/studies/...``: the parts
``deid_png.part00`` to ``part09`` are one archive, unpacked into the root.

A patient's earlier study, by ``StudyDate``, is the prior. The texts stay as they are, as with
``rexrank``, which reads one of the files for the leaderboard.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import first_existing, parse_number
from llava_rad.data.priors import add_priors
from llava_rad.data.rexrank import IMAGE_FOLDERS, read_rows, study_of
from llava_rad.data.study import Split, Study
from llava_rad.errors import DataError

_FILE = "{}_metadata_view_position.json"
_SPLITS: dict[str, Split] = {"train": "train", "valid": "validation", "test": "test"}


def read(root: Path, log: ConversionLog, *, images: str = "") -> Iterator[Study]:
    """Read the splits that are there.

    Args:
        root: the folder with ``metadata`` and ``deid_png``.
        log: filled with what was left out or noted.
        images: the folder that ``deid_png`` was unpacked into or itself, where it is another one.
    """
    bases = [Path(images), Path(images) / "deid_png"] if images else None
    folders = bases or [root / name for name in IMAGE_FOLDERS]
    studies = []
    dates: dict[str, tuple[float, ...]] = {}
    found = False
    for word, split in _SPLITS.items():
        name = _FILE.format(word)
        path = first_existing(root / "metadata" / name, root / name)
        if path is None:
            continue
        found = True
        for study_id, row in read_rows(path).items():
            study = study_of(study_id, row, path, split, folders, log, source="rexgradient")
            if study is None:
                continue
            studies.append(study)
            day = parse_number(str(row.get("StudyDate")))
            if day is not None:
                dates[study_id] = (day,)
    if not found:
        raise DataError(
            f"there is no {_FILE.format('train')}, nor one of valid or test",
            where=root,
            remedy="Give the folder with the data set's metadata",
            kind="missing_table",
        )
    yield from add_priors(studies, dates, log)
