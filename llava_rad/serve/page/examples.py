"""Films to try the page with: drawings, and the radiograph of pydicom's test data where it is."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 512


@dataclass(frozen=True)
class Example:
    """A film.

    Attributes:
        title: on the page.
        media_type: of its file.
        content: makes or reads the file.
        is_here: whether that can be done.
    """

    title: str
    media_type: str
    content: Callable[[], bytes]
    is_here: Callable[[], bool] = lambda: True


def drawing(*, opacity: bool) -> bytes:
    """A chest as geometry has it, a PNG file: no person, and nothing to judge a model by.

    Args:
        opacity: with a bright patch in the lower field of the lung at the picture's left.
    """
    rows, columns = (np.mgrid[0:_SIDE, 0:_SIDE] + 0.5) / _SIDE * 2 - 1
    picture = 0.62 * _ellipse(rows, columns, 0.25, 0.0, 1.15, 0.98, 0.05)
    for side in (-1, 1):
        lung = _ellipse(rows, columns, -0.02, side * 0.42, 0.68, 0.33, 0.06)
        lung *= 1 - _ellipse(rows, columns, 0.78, side * 0.42, 0.36, 0.46, 0.06)
        picture -= 0.42 * lung
        across = np.abs(columns - side * 0.08)
        for number in range(8):
            height = rows - (-0.72 + 0.19 * number) - 0.45 * np.abs(across - 0.35) ** 1.6
            picture += 0.09 * np.exp(-((height / 0.028) ** 2)) * (across < 0.82)
        if opacity and side < 0:
            picture += 0.3 * _ellipse(rows, columns, 0.26, -0.45, 0.16, 0.17, 0.3)
    heart = _ellipse(rows, columns, 0.3, 0.13, 0.34, 0.34, 0.08)
    spine = np.exp(-((columns / 0.1) ** 2)) * (0.75 + 0.25 * np.cos(rows * 40))
    picture = np.maximum(picture, 0.68 * heart) + 0.14 * spine
    file = io.BytesIO()
    Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _ellipse(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    row: float,
    column: float,
    height: float,
    width: float,
    edge: float,
) -> NDArray[np.float64]:
    """1 within, 0 without, and an edge as soft as told."""
    away = np.sqrt(((rows - row) / height) ** 2 + ((columns - column) / width) ** 2)
    return 1 / (1 + np.exp((away - 1) / (0.25 * edge)))


def _radiograph() -> Path | None:
    from pydicom.data import get_testdata_file

    found = get_testdata_file("RG1_UNCR.dcm", download=False)
    return None if found is None else Path(str(found))


def _content_of_radiograph() -> bytes:
    path = _radiograph()
    return path.read_bytes() if path is not None else b""


#: By the names of their files.
EXAMPLES = {
    "RG1_UNCR.dcm": Example(
        "radiograph of pydicom-data (DICOM)",
        "application/dicom",
        _content_of_radiograph,
        lambda: _radiograph() is not None,
    ),
    "drawing.png": Example("drawing", "image/png", lambda: drawing(opacity=False)),
    "drawing-opacity.png": Example(
        "drawing with an opacity", "image/png", lambda: drawing(opacity=True)
    ),
}
