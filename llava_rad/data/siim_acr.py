"""SIIM-ACR Pneumothorax Segmentation (Filice et al., 2020): frontal images with masks, no reports.

Layout: ``train-rle.csv`` or, of the second stage, ``stage_2_train.csv`` (``ImageId,
EncodedPixels``: a row a region, ``-1`` where there is none) and the images ``<ImageId>.dcm`` in any
folders below, such as ``dicom-images-train/<study>/<series>``. Sex, age, view and patient come from
the DICOM headers; the patients are named by keyed hashes. Images without a row, as those of the
tests, are left out. There is no official split.

The repack as PNG is read too: ``stage_1_train_images.csv`` and ``stage_1_test_images.csv``
(``new_filename, ImageId, has_pneumo``), ``png_images`` and ``png_masks``. Its split is that of the
two tables; it names no patients, so each image counts as a patient of its own.

The mask is the structure ``pneumothorax``, empty where there is none. Of the DICOM layout it stays
in the table, as run lengths (:mod:`llava_rad.data.mask_rows`).

The images are NIH ChestX-ray14's under other names: none belongs beside a test of that set.
"""

from collections.abc import Iterator
from pathlib import Path

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.dicom_studies import join, patient_name
from llava_rad.data.fields import first_existing, is_file
from llava_rad.data.identifiers import Identifiers
from llava_rad.data.mask_rows import MaskRows
from llava_rad.data.study import Split, Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import DataError, shown
from llava_rad.readers import Row

_LABEL = "Pneumothorax"
_STRUCTURE = "pneumothorax"
_TABLES = ("stage_2_train.csv", "train-rle.csv")
_RUNS = "EncodedPixels"
_REPACK: dict[Split, str] = {
    "train": "stage_1_train_images.csv",
    "test": "stage_1_test_images.csv",
}


def read(root: Path, log: ConversionLog, identifiers: Identifiers | None = None) -> Iterator[Study]:
    """Read the data set.

    Args:
        root: the folder with the table.
        log: filled with what was left out or noted.
        identifiers: make the names of the patients; by default with a key of their own.
    """
    tables = {split: root / name for split, name in _REPACK.items() if (root / name).is_file()}
    for split, table in tables.items():
        yield from _repacked(root, table, split, log)
    if not tables:
        yield from _of_dicom_files(root, identifiers or Identifiers(), log)


def _of_dicom_files(root: Path, identifiers: Identifiers, log: ConversionLog) -> Iterator[Study]:
    from llava_rad.images.study_header import read_study_header  # numpy and pydicom take a while

    table = first_existing(*(root / name for name in _TABLES))
    if table is None:
        raise DataError(
            f"none of {', '.join((*_TABLES, *_REPACK.values()))} is here",
            where=root,
            remedy="Give the folder that the challenge's data were unpacked into",
            kind="missing_table",
        )
    rows_of: dict[str, list[Row]] = {}
    for row in read_table(table, ("ImageId", _RUNS), filled=("ImageId",), log=log):
        rows_of.setdefault(row["ImageId"], []).append(row)
    paths = {path.stem: path for path in sorted(root.rglob("*.dcm"))}
    for name in paths.keys() - rows_of.keys():
        log.leave_out("not_in_the_table", name)
    for name, rows in rows_of.items():
        path = paths.get(name)
        if path is None:
            log.leave_out("image_missing", name)
            continue
        group = join([(str(path), read_study_header(path))])
        patient = patient_name(group, identifiers)
        if patient is None:
            log.note("no_patient_in_header", name)
        marked = [row for row in rows if row[_RUNS]]
        mask = {_STRUCTURE: str(MaskRows.of(table, marked, _RUNS))} if marked else {}
        yield Study(
            study_id=name,
            patient_id=patient or name,
            images=(StudyImage(str(path), "frontal", group.images[0].view_position, mask),),
            labels={_LABEL: float(any(row[_RUNS] != "-1" for row in marked)) if marked else None},
            sex=group.sex,
            age=group.age,
            source="siim-acr",
        )


def _repacked(root: Path, table: Path, split: Split, log: ConversionLog) -> Iterator[Study]:
    columns = ("new_filename", "ImageId", "has_pneumo")
    for row in read_table(table, columns, filled=columns, once="new_filename", log=log):
        name = row["ImageId"]
        if row["has_pneumo"] not in ("0", "1"):
            raise DataError(
                f"has_pneumo is {shown(row['has_pneumo'])}",
                where=row.where,
                remedy="It is 0 or 1",
                kind="bad_row",
            )
        path = root / "png_images" / row["new_filename"]
        mask = root / "png_masks" / row["new_filename"]
        if not is_file(path):
            log.leave_out("image_missing", row["new_filename"])
            continue
        if not is_file(mask):
            log.note("no_mask", name)
        yield Study(
            study_id=name,
            patient_id=name,
            split=split,
            images=(
                StudyImage(
                    str(path), "frontal", masks={_STRUCTURE: str(mask)} if is_file(mask) else {}
                ),
            ),
            labels={_LABEL: float(row["has_pneumo"])},
            source="siim-acr",
        )
