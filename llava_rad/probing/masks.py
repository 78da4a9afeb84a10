"""True masks of structures, in the layouts that data sets publish them in.

- a manifest's masks, or a folder of pictures named like the images: not 0 inside, or one label
  value of a map of several structures; a manifest may name rows of a table of run lengths instead
  (:mod:`llava_rad.data.mask_rows`);
- a CSV of run lengths (:mod:`llava_rad.probing.run_lengths`), a row a region: SIIM-ACR's
  ``train-rle.csv`` (``ImageId, EncodedPixels``) and CANDID-PTX's ``Pneumothorax_reports.csv``
  (``SOPInstanceUID, EncodedPixels``), ``chest_tube.csv`` and ``Rib_fracture_mask_rle.csv``
  (``anon_SOPUID, mask_rle``);
- VinDr-RibCXR's JSON: a polygon for each rib, ``R1`` to ``L10``, of each image.

Masks that are given in stored pixels follow a picture whose pixels were made square.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from llava_rad.data.image_files import IMAGE_ENDINGS
from llava_rad.data.mask_rows import MaskRows
from llava_rad.data.tables import read_table
from llava_rad.errors import ConfigError, DataError, ImageError
from llava_rad.images import Geometry, geometry_of, load_mask
from llava_rad.outlines import Mask
from llava_rad.probing.examples import Example
from llava_rad.probing.run_lengths import SIDE, decode_runs, read_mask_rows
from llava_rad.readers import read_json

LUNGS = "lungs"
# Id column -> run column, and whether an image that is not listed has none of the structure.
_RUN_LAYOUTS = {
    "ImageId": ("EncodedPixels", False),
    "SOPInstanceUID": ("EncodedPixels", False),
    "anon_SOPUID": ("mask_rle", True),
}


class MaskSource(ABC):
    """Masks of one or several structures.

    Attributes:
        structures: their names.
    """

    structures: tuple[str, ...]

    @abstractmethod
    def read(self, example: Example) -> list[Mask | None]:
        """The mask of each structure, [height, width], or None where it is not known.

        Raises:
            DataError: a mask cannot be read or does not fit its image.
        """


class ManifestMasks(MaskSource):
    """The masks of one structure that a manifest names."""

    def __init__(self, structure: str) -> None:
        self.structures = (structure,)

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        name = example.image.masks.get(self.structures[0])
        place = None if name is None else MaskRows.parse(name)
        if place is not None:
            return [_on_picture(read_mask_rows(place), example, place.table)]
        return [None if name is None else _read_picture(Path(name), example)]


class FolderMasks(MaskSource):
    """Pictures named like the images, in one folder; of one label value if that is given."""

    def __init__(self, structure: str, folder: Path, value: int | None = None) -> None:
        self.structures = (structure,)
        self.value = value
        self.paths = {image_id(path): path for path in folder.iterdir() if path.is_file()}

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        path = self.paths.get(image_id(Path(example.path)))
        return [None if path is None else _read_picture(path, example, self.value)]


class RunLengthMasks(MaskSource):
    """A CSV of run lengths; see the module for the layouts."""

    def __init__(self, structure: str, table: Path) -> None:
        self.structures = (structure,)
        self.table = table
        self.runs: dict[str, list[str]] = {}
        rows = list(read_table(table))
        columns = {name.strip() for row in rows[:1] for name in row}
        key = next((name for name in _RUN_LAYOUTS if name in columns), None)
        if key is None or _RUN_LAYOUTS[key][0] not in columns:
            known = ", or ".join(f"{k} and {runs}" for k, (runs, _) in _RUN_LAYOUTS.items())
            raise DataError(
                f"the columns are {', '.join(sorted(columns)) or 'missing'}",
                where=table,
                remedy=f"Give a table with {known}",
                kind="unknown_layout",
            )
        run_column, self.unlisted_is_empty = _RUN_LAYOUTS[key]
        for row in rows:
            cells = {name.strip(): cell for name, cell in row.items()}
            if cells[run_column]:
                self.runs.setdefault(cells[key], []).append(cells[run_column])

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        name = image_id(Path(example.path))
        if name not in self.runs:
            return [np.zeros((SIDE, SIDE), bool) if self.unlisted_is_empty else None]
        mask = np.zeros((SIDE, SIDE), bool)
        for text in self.runs[name]:
            mask |= decode_runs(text, (SIDE, SIDE), where=f"{self.table}, {name}")
        geometry = geometry_of(example.path)
        return [_stretched(mask, geometry) if _fits(mask, geometry.stored) else mask]


class RibMasks(MaskSource):
    """VinDr-RibCXR: ``{"img": {index: path}, "R1": {index: [{"x": ..., "y": ...}]}, ...}``."""

    def __init__(self, file: Path) -> None:
        remedy = "Give VinDr_RibCXR_train_mask.json or one of its layout"
        content = read_json(file, remedy=remedy, kind="unknown_layout")
        try:
            names = content.pop("img")
            rows = {image_id(Path(path)): row for row, path in names.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(
                f"not a JSON of rib polygons ({error})",
                where=file,
                remedy=remedy,
                kind="unknown_layout",
            ) from error
        self.file, self.rows, self.polygons = file, rows, content
        self.structures = tuple(content)

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        name = image_id(Path(example.path))
        row = self.rows.get(name)
        if row is None:
            return [None] * len(self.structures)
        geometry = geometry_of(example.path)
        height, width = geometry.shape
        down, across = geometry.scale
        masks: list[Mask | None] = []
        for structure in self.structures:
            points = self.polygons[structure].get(row)
            picture = Image.new("1", (width, height))
            if points and points != "None":
                corners = [(across * point["x"], down * point["y"]) for point in points]
                ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
            masks.append(np.asarray(picture, bool))
        return masks


def open_masks(specs: Sequence[str]) -> list[MaskSource]:
    """Mask sources from the texts that a program is given.

    Args:
        specs: ``NAME=FOLDER``, ``NAME=FOLDER:VALUE`` with the structure's label in maps of
            several, ``NAME=TABLE.csv``, ``RIBS.json``, or a structure that the manifest has masks
            of; its lungs if there is none.

    Raises:
        ConfigError: a text is none of these.
        DataError: a file is not of a known layout.
    """
    if not specs:
        return [ManifestMasks(LUNGS)]
    sources: list[MaskSource] = []
    for spec in specs:
        name, separator, text = spec.partition("=")
        path, (folder, value) = Path(text), _folder_and_value(text)
        if spec.isidentifier():
            sources.append(ManifestMasks(spec))
        elif not separator and spec.endswith(".json"):
            sources.append(RibMasks(Path(spec)))
        elif separator and path.is_dir():
            sources.append(FolderMasks(name, path))
        elif separator and value is not None and folder.is_dir():
            sources.append(FolderMasks(name, folder, value))
        elif separator and path.suffix == ".csv":
            sources.append(RunLengthMasks(name, path))
        else:
            raise ConfigError(
                f"{spec!r} names no masks",
                where="masks",
                remedy=f"Give {LUNGS} or another structure of the manifest, NAME=FOLDER of "
                "pictures named like the images, NAME=FOLDER:VALUE for one label of them, "
                "NAME=TABLE.csv of run lengths, or a JSON of rib polygons",
            )
    structures = [s for source in sources for s in source.structures]
    if len(set(structures)) < len(structures):
        raise ConfigError(
            f"a structure is named twice: {', '.join(structures)}",
            where="masks",
            remedy="Give each a name of its own",
        )
    return sources


def image_id(path: Path) -> str:
    """The file's name without its ending; a UID's last number is no ending."""
    return path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name


def require_both_sides(
    structures: Sequence[str], known: NDArray[np.bool_], divided: NDArray[np.bool_]
) -> None:
    """Refuse masks that say nothing: all of them empty, or covering the whole image.

    Args:
        structures: their names.
        known: bool [images, structures], whether there is a mask.
        divided: bool [images, structures], whether it has an inside and an outside.

    Raises:
        DataError: a structure has masks, and none of them is divided.
    """
    for column, structure in enumerate(structures):
        if known[:, column].any() and not divided[:, column].any():
            raise DataError(
                f"all {known[:, column].sum()} masks of {structure} are empty or cover the "
                "whole image",
                where="masks",
                remedy="Check that the folder is that of the masks, and the label value with "
                "NAME=FOLDER:VALUE",
                kind="one_sided_masks",
            )


def _folder_and_value(text: str) -> tuple[Path, int | None]:
    """Take ``FOLDER:VALUE`` apart; the value is None if there is none."""
    folder, separator, value = text.rpartition(":")
    if separator and value.isascii() and value.isdigit():
        return Path(folder), int(value)
    return Path(text), None


def _read_picture(path: Path, example: Example, value: int | None = None) -> Mask:
    try:
        mask = load_mask(path, value=value)
    except ImageError as error:
        raise DataError(
            f"the mask cannot be read ({error.what})",
            where=path,
            remedy=error.remedy,
            kind="bad_mask",
        ) from error
    return _on_picture(mask, example, path)


def _on_picture(mask: Mask, example: Example, where: object) -> Mask:
    """A mask over its picture."""
    geometry = geometry_of(example.path)
    # Masks are often kept at another size than the image; only its shape must be the same.
    if _fits(mask, geometry.shape):
        return mask
    if _fits(mask, geometry.stored):
        return _stretched(mask, geometry)
    height, width = geometry.shape
    raise DataError(
        f"the mask is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height} pixels",
        where=where,
        remedy="Give a mask that covers the whole image",
        kind="mask_mismatch",
    )


def _fits(mask: Mask, shape: tuple[int, int]) -> bool:
    """Whether a mask has the shape of an image, within a pixel, whatever its size."""
    (rows, columns), (height, width) = mask.shape, shape
    return abs(columns * height - rows * width) <= max(height, width, rows, columns)


def _stretched(mask: Mask, geometry: Geometry) -> Mask:
    """A mask over stored pixels as one over the picture."""
    if geometry.shape == geometry.stored:
        return mask
    height, width = geometry.shape
    size = (width, height)
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), bool)
