"""True masks of structures, in the layouts that data sets publish them in.

- a manifest's lung masks, or a folder of pictures named like the images: not 0 inside;
- a CSV of run lengths, a row a region: SIIM-ACR's ``train-rle.csv`` (``ImageId, EncodedPixels``)
  and CANDID-PTX's ``Pneumothorax_reports.csv`` (``SOPInstanceUID, EncodedPixels``),
  ``chest_tube.csv`` and ``Rib_fracture_mask_rle.csv`` (``anon_SOPUID, mask_rle``). Runs are column
  by column over 1024 x 1024 pixels, each start counted from the end of the run before, ``-1`` for
  none;
- VinDr-RibCXR's JSON: a polygon for each rib, ``R1`` to ``L10``, of each image.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError

from llava_rad.data.image_files import IMAGE_ENDINGS
from llava_rad.data.tables import read_table
from llava_rad.errors import ConfigError, DataError
from llava_rad.images import load_radiograph
from llava_rad.probing.examples import Example

Mask = NDArray[np.bool_]

LUNGS = "lungs"
_RUN_SIDE = 1024
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
    """The lung masks that a manifest names."""

    structures = (LUNGS,)

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        path = example.image.lung_mask
        return [None if path is None else _read_picture(Path(path), example)]


class FolderMasks(MaskSource):
    """Pictures named like the images, in one folder."""

    def __init__(self, structure: str, folder: Path) -> None:
        self.structures = (structure,)
        self.paths = {image_id(path): path for path in folder.iterdir() if path.is_file()}

    def read(self, example: Example) -> list[Mask | None]:
        """See :class:`MaskSource`."""
        path = self.paths.get(image_id(Path(example.path)))
        return [None if path is None else _read_picture(path, example)]


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
            return [np.zeros((_RUN_SIDE, _RUN_SIDE), bool) if self.unlisted_is_empty else None]
        mask = np.zeros((_RUN_SIDE, _RUN_SIDE), bool)
        for text in self.runs[name]:
            mask |= decode_runs(text, (_RUN_SIDE, _RUN_SIDE), where=f"{self.table}, {name}")
        return [mask]


class RibMasks(MaskSource):
    """VinDr-RibCXR: ``{"img": {index: path}, "R1": {index: [{"x": ..., "y": ...}]}, ...}``."""

    def __init__(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            names = content.pop("img")
            rows = {image_id(Path(path)): row for row, path in names.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(
                f"not a JSON of rib polygons ({error})",
                where=file,
                remedy="Give VinDr_RibCXR_train_mask.json or one of its layout",
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
        height, width = _image_shape(example)
        masks: list[Mask | None] = []
        for structure in self.structures:
            points = self.polygons[structure].get(row)
            picture = Image.new("1", (width, height))
            if points and points != "None":
                corners = [(point["x"], point["y"]) for point in points]
                ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
            masks.append(np.asarray(picture, bool))
        return masks


def open_masks(specs: Sequence[str]) -> list[MaskSource]:
    """Mask sources from the texts that a program is given.

    Args:
        specs: ``NAME=FOLDER``, ``NAME=TABLE.csv`` or ``RIBS.json``; the manifest's lung masks if
            there is none.

    Raises:
        ConfigError: a text is none of these.
        DataError: a file is not of a known layout.
    """
    if not specs:
        return [ManifestMasks()]
    sources: list[MaskSource] = []
    for spec in specs:
        name, separator, text = spec.partition("=")
        path = Path(text)
        if spec == LUNGS:
            sources.append(ManifestMasks())
        elif not separator and spec.endswith(".json"):
            sources.append(RibMasks(Path(spec)))
        elif separator and path.is_dir():
            sources.append(FolderMasks(name, path))
        elif separator and path.suffix == ".csv":
            sources.append(RunLengthMasks(name, path))
        else:
            raise ConfigError(
                f"{spec!r} names no masks",
                where="masks",
                remedy=f"Give {LUNGS} (of the manifest), NAME=FOLDER of pictures named like the "
                "images, NAME=TABLE.csv of run lengths, or a JSON of rib polygons",
            )
    structures = [s for source in sources for s in source.structures]
    if len(set(structures)) < len(structures):
        raise ConfigError(
            f"a structure is named twice: {', '.join(structures)}",
            where="masks",
            remedy="Give each a name of its own",
        )
    return sources


def decode_runs(text: str, shape: tuple[int, int], *, where: object = None) -> Mask:
    """A mask from relative run lengths: ``gap length gap length ...``, column by column.

    Args:
        text: ``-1`` for an empty mask.
        shape: height and width.
        where: for messages.

    Raises:
        DataError: the runs are not numbers in pairs, or reach outside the image.
    """
    flat = np.zeros(shape[0] * shape[1], bool)
    if text.strip() == "-1":
        return flat.reshape(shape)
    try:
        pairs = np.array([int(part) for part in text.split()]).reshape(-1, 2)
    except ValueError as error:
        raise DataError(
            f"not run lengths ({error})", where=where, remedy="Restore the row", kind="bad_runs"
        ) from error
    ends = pairs.sum(axis=1).cumsum()
    if (pairs < 0).any() or (len(ends) and ends[-1] > flat.size):
        raise DataError(
            f"the runs reach outside {shape[0]} x {shape[1]} pixels",
            where=where,
            remedy="Restore the row",
            kind="bad_runs",
        )
    for end, (_, length) in zip(ends, pairs, strict=True):
        flat[end - length : end] = True
    return flat.reshape(shape[1], shape[0]).T


def image_id(path: Path) -> str:
    """The file's name without its ending; a UID's last number is no ending."""
    return path.stem if path.suffix.lower() in IMAGE_ENDINGS else path.name


def _read_picture(path: Path, example: Example) -> Mask:
    try:
        with Image.open(path) as picture:
            mask = np.asarray(picture.convert("L")) > 0
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            f"the mask cannot be read ({error})",
            where=path,
            remedy="Restore the file, or take it out",
            kind="bad_mask",
        ) from error
    height, width = _image_shape(example)
    # Masks are often kept at another size than the image; only its shape must be the same.
    if abs(mask.shape[1] * height - mask.shape[0] * width) > max(height, width, *mask.shape):
        raise DataError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height} pixels",
            where=path,
            remedy="Give a mask that covers the whole image",
            kind="mask_mismatch",
        )
    return mask


def _image_shape(example: Example) -> tuple[int, int]:
    """Height and width, from the header where Pillow reads the format."""
    try:
        with Image.open(example.path) as picture:
            return picture.height, picture.width
    except (OSError, UnidentifiedImageError):
        return load_radiograph(example.path).pixels.shape
