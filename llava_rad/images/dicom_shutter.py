"""What a shutter or the edges of a collimator leave of a DICOM picture.

Display Shutter (PS3.3 C.7.6.11) and X-Ray Collimator (C.8.7.3) are stated alike: a rectangle, a
circle or a polygon, or several of them, in rows and columns counted from 1. What lies outside of
any of them is covered.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset

from llava_rad.images.dicom_values import codes_of, number_of, numbers_of, value_of
from llava_rad.images.photometric import Region
from llava_rad.images.radiograph import Notes

_FORMS = ("RECTANGULAR", "CIRCULAR", "POLYGONAL")
# What leaves less of the picture is a mistake. Some machines state the edges of the collimator in
# millimetres: read as pixels they leave a hundredth to a twentieth.
_SMALLEST_SHARE = {"Shutter": 0.01, "Collimator": 0.1}

Mask = NDArray[np.bool_]


def shown_region(
    dataset: Dataset, shape: tuple[int, int], ratio: float, notes: Notes
) -> Region | None:
    """Return what neither shutter nor collimator covers, None if that is everything.

    Args:
        dataset: the header.
        shape: rows and columns.
        ratio: height of a pixel by its width; circles are round in the patient.
        notes: receives the facts ``shutter`` and ``collimator``, and a warning of that kind for
            each that cannot be used and is ignored.
    """
    shown = np.ones(shape, bool)
    for device in ("Shutter", "Collimator"):
        if value_of(dataset, f"{device}Shape") is None:
            continue
        forms = codes_of(dataset, f"{device}Shape")
        for form in forms or ["unreadable"]:
            form = form.upper()
            try:
                inside = _inside(dataset, device, form, shape, ratio)
                share = (shown & inside).mean()
                if share < _SMALLEST_SHARE[device]:
                    raise ValueError(f"it leaves {share:.1%} of the picture")
            except ValueError as error:
                # A word that is no shape may be anything, so it is not repeated.
                known = form.lower() if form in _FORMS else "unknown"
                notes.warn(device.lower(), f"the {known} {device.lower()} was ignored: {error}")
                continue
            if not inside.all():
                notes.facts.setdefault(device.lower(), []).append(form)
            shown &= inside
    return None if shown.all() else Region(shown, _without_edge(shown))


def _inside(dataset: Dataset, device: str, form: str, shape: tuple[int, int], ratio: float) -> Mask:
    """Return what one form leaves uncovered.

    Raises:
        ValueError: it is not stated, or makes no sense.
    """
    if form not in _FORMS:
        raise ValueError("there is no such shape")
    if form == "RECTANGULAR":
        return _rectangle(dataset, device, shape)
    if form == "CIRCULAR":
        return _circle(dataset, device, shape, ratio)
    return _polygon(dataset, device, shape)


def _rectangle(dataset: Dataset, device: str, shape: tuple[int, int]) -> Mask:
    sides = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    edges = [number_of(dataset, f"{device}{side}Edge") for side in sides]
    if any(edge is None or not np.isfinite(edge) for edge in edges):
        raise ValueError("an edge is missing or unreadable")
    left, right, upper, lower = (edge or 0.0 for edge in edges)
    if left >= right or upper >= lower:
        raise ValueError("its edges are in the wrong order")
    rows, columns = (np.arange(1, side + 1) for side in shape)
    return ((upper <= rows) & (rows <= lower))[:, None] & ((left <= columns) & (columns <= right))


def _circle(dataset: Dataset, device: str, shape: tuple[int, int], ratio: float) -> Mask:
    center = numbers_of(dataset, f"CenterOfCircular{device}")
    radius = number_of(dataset, f"RadiusOfCircular{device}")
    if len(center) != 2 or radius is None or not np.isfinite([*center, radius]).all():
        raise ValueError("center or radius is missing or unreadable")
    if radius <= 0:
        raise ValueError("its radius is not positive")
    rows, columns = (np.arange(1.0, side + 1) for side in shape)
    # The radius counts columns; a row is ``ratio`` columns high.
    square = radius**2 - ((rows - center[0]) * ratio) ** 2
    half_chord = np.where(square >= 0, np.sqrt(np.maximum(square, 0)), -1)
    return np.abs(columns - center[1]) <= half_chord[:, None]


def _polygon(dataset: Dataset, device: str, shape: tuple[int, int]) -> Mask:
    numbers = numbers_of(dataset, f"VerticesOfThePolygonal{device}")
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError("it has no three vertices of row and column")
    if max(map(abs, numbers)) > 2**16:
        raise ValueError("its vertices are far outside the picture")
    picture = Image.new("1", (shape[1], shape[0]))
    corners = [
        (column - 1, row - 1) for row, column in zip(numbers[::2], numbers[1::2], strict=True)
    ]
    ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
    return np.asarray(picture, bool)


def _without_edge(shown: Mask) -> Mask:
    """Return the region without the pixels beside a covered one; the picture's border stays."""
    inner = shown.copy()
    inner[1:] &= shown[:-1]
    inner[:-1] &= shown[1:]
    inner[:, 1:] &= shown[:, :-1]
    inner[:, :-1] &= shown[:, 1:]
    return inner
