"""CheXmask (Gaggion et al., 2024): masks of lungs and heart for the images of other data sets.

Layout: ``OriginalResolution`` with ``CheXpert.csv``, ``MIMIC-CXR-JPG.csv``, ``ChestX-Ray8.csv``
(NIH), ``Padchest.csv`` and ``VinDr-CXR.csv``; one of them is enough. A row an image: its name in a
column of the data set's own (``Path``, ``dicom_id``, ``Image Index``, ``ImageID`` or ``image_id``),
``Dice RCA (Mean)``, ``Dice RCA (Max)``, ``Landmarks``, ``Left Lung``, ``Right Lung``, ``Heart``
(run lengths), ``Height`` and ``Width``. The folder ``Preprocessed`` is not used: its masks are over
padded squares.

The set holds no images. Convert theirs first, and name that manifest: ``-O manifest=nih.jsonl``.
The studies come out as they are there, with the masks ``left_lung``, ``right_lung`` and ``heart``
at their images; masks that an image had before stay. The tables are read once, row by row, and the
masks stay in them (:mod:`llava_rad.data.mask_rows`).

The masks were made by a program (HybridGNet). ``Dice RCA (Mean)`` is its own estimate of their
quality; the publishers advise to use masks from 0.7 on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.fields import parse_number
from llava_rad.data.manifest import load_manifest
from llava_rad.data.mask_rows import MaskRows
from llava_rad.data.study import Study, StudyImage
from llava_rad.data.tables import read_table
from llava_rad.errors import ConfigError, DataError
from llava_rad.readers import read_columns

STRUCTURES = {"Left Lung": "left_lung", "Right Lung": "right_lung", "Heart": "heart"}
_QUALITY = "Dice RCA (Mean)"
# Column of the image's name -> adapters whose images it names.
_NAMED_BY = {
    "Path": ("chexpert", "chexpert-plus"),
    "dicom_id": ("mimic-cxr", "llava-rad"),
    "Image Index": ("nih",),
    "ImageID": ("padchest", "padchest-gr"),
    "image_id": ("vindr-cxr",),
}


def read(
    root: Path, log: ConversionLog, *, manifest: str = "", quality: str = "0.7"
) -> Iterator[Study]:
    """Give the studies of a manifest their masks.

    Args:
        root: the folder with ``OriginalResolution``, or with its tables.
        log: filled with what was left out or noted.
        manifest: of the images, made from their own data set before.
        quality: the lowest Dice RCA (Mean) of the masks that are taken, 0 to 1.
    """
    tables = _tables(root)
    lowest = parse_number(quality)
    if lowest is None or not 0 <= lowest <= 1:
        raise ConfigError(
            f"option quality is {quality!r}", remedy="Give a number from 0 to 1", kind="bad_option"
        )
    if not manifest:
        raise ConfigError(
            "the masks are of another data set's images, and no manifest of them is named",
            remedy="Convert that data set first, and add -O manifest=FILE",
            kind="bad_option",
        )
    studies = load_manifest(manifest)
    masks = _masks(studies, tables, lowest, log)
    if not masks:
        raise DataError(
            f"no image of {manifest} has a mask of that quality in {_named(tables)}",
            where=root,
            remedy="Download the table of the manifest's data set",
            kind="no_mask",
        )
    for study in studies:
        images = tuple(_with_masks(image, masks) for image in study.images)
        for image in images:
            if image.view == "frontal" and not image.masks:
                log.note("no_mask", study.study_id)
        yield replace(study, images=images)


def _tables(root: Path) -> dict[Path, str]:
    """The tables and their columns of names."""
    folder = root / "OriginalResolution"
    folder = folder if folder.is_dir() else root
    found = {}
    for path in sorted(folder.glob("*.csv")):
        columns = read_columns(path)
        name = next((name for name in _NAMED_BY if name in columns), None)
        if name is not None and _QUALITY in columns:
            found[path] = name
    if not found:
        packed = any(folder.glob("*.csv.gz"))
        raise DataError(
            "the tables are packed" if packed else "there is no table of masks here",
            where=folder,
            remedy="Unpack them with gunzip: single rows of them are read later"
            if packed
            else "Give the folder that CheXmask was downloaded into",
            kind="missing_table",
        )
    return found


def _masks(
    studies: Sequence[Study], tables: dict[Path, str], lowest: float, log: ConversionLog
) -> dict[str, dict[str, str]]:
    """Masks by the image's name."""
    sources = {study.source for study in studies}
    wanted = {key for study in studies for image in study.images for key in _keys(image.path)}
    known = {source for named in _NAMED_BY.values() for source in named}
    found: dict[str, dict[str, str]] = {}
    for path, column in tables.items():
        # Tables have gigabytes: of known data sets only their own is read.
        if sources <= known and sources.isdisjoint(_NAMED_BY[column]):
            continue
        needed = (column, _QUALITY, *STRUCTURES, "Height", "Width")
        for row in read_table(path, needed, filled=(column,), once=column, log=log):
            key = _keys(row[column])[-1]
            if key not in wanted:
                continue
            value = parse_number(row[_QUALITY])
            if value is None or value < lowest:
                log.note("mask_below_quality" if value is not None else "mask_without_quality", key)
                continue
            found[key] = {
                structure: str(MaskRows.of(path, [row], cell))
                for cell, structure in STRUCTURES.items()
                if row[cell]
            }
    return found


def _keys(path: str) -> tuple[str, ...]:
    """What an image may be called: its name, and CheXpert's ``train/patient1/study1/view1``."""
    *folders, name = PurePath(path).parts or ("",)
    stem = PurePath(name).stem
    return (stem, "/".join((*folders[-3:], stem))) if len(folders) >= 3 else (stem,)


def _with_masks(image: StudyImage, masks: dict[str, dict[str, str]]) -> StudyImage:
    own = next((masks[key] for key in _keys(image.path) if key in masks), {})
    return replace(image, masks={**own, **image.masks}) if own else image


def _named(tables: dict[Path, str]) -> str:
    return ", ".join(path.name for path in tables)
