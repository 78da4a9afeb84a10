"""The one form in which an X-ray image leaves this package."""

import io
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from llava_rad.names import one_line

# Longest side of a picture that is shown beside its text.
_THUMBNAIL = 400

Rendering = Literal["minmax", "voi"]


@dataclass(frozen=True, eq=False, repr=False)
class Radiograph:
    """One view of the chest as an 8-bit picture, and what was used to make it.

    ``numpy.asarray`` of it is the picture, and a notebook shows it.

    Attributes:
        pixels: uint8 [height, width], 0 black to 255 white; bones are bright.
        rendering: ``"minmax"`` (smallest valid value 0, largest 255) or ``"voi"`` (the file's
            own value-of-interest table or window, as a viewer shows it).
        view: ``"frontal"``, ``"lateral"`` or ``"unknown"``; never a guess from the picture.
        view_position: the file's own word for the view, such as ``"PA"``, or None.
        laterality: ``"L"``, ``"R"`` or ``"B"`` as the file states it, or None.
        pixel_spacing: millimetres between rows and between columns of ``pixels``, or None.
        photometric: facts of the file that were used, in plain JSON types. Always there:
            ``file_format``, ``photometric_interpretation`` (DICOM) or ``mode`` (other formats),
            ``bits_stored``, ``inverted``, ``voi`` (``"none"`` for the rendering ``"minmax"``,
            else ``"lut"``, ``"window"``, ``"full_range"`` or ``"minmax"``), ``value_range``
            (smallest and largest valid value), ``lossy``.
        warnings: each ``"kind: text"``; what was odd about the file and how it was read anyway.
            Kinds: ``header`` (an element cannot be read), ``transfer_syntax``,
            ``number_of_frames``, ``bits_stored``, ``rescale``, ``voi`` (rendered by min-max or
            another step than asked for), ``voi_lut``, ``presentation_lut_shape``, ``shutter`` and
            ``collimator`` (unusable, ignored), ``pixel_shape`` (not square, resampled), ``color``
            (a photograph or tinted film), ``low_contrast``, ``view`` (contradictory),
            ``mirrored`` (left and right), ``modality``, ``body_part``, ``for_processing``,
            ``exif``, ``depth``. Of a header they quote numbers, identifiers of formats and codes
            only, never names, dates, ids or free text.
        source: the path or name it was read from.
        scale: rows and columns of ``pixels`` to one as stored. Not 1 where pixels that are not
            square were resampled: masks and places given in stored pixels are multiplied by it.

    Example:
        >>> radiograph = llava_rad.load_radiograph("lateral.dcm")
        >>> radiograph.view, radiograph.view_position
        ('lateral', 'LL')
        >>> np.asarray(radiograph).shape
        (64, 64)
    """

    pixels: NDArray[np.uint8]
    rendering: Rendering
    view: str
    view_position: str | None
    laterality: str | None
    pixel_spacing: tuple[float, float] | None
    photometric: dict[str, Any]
    warnings: tuple[str, ...]
    source: str
    scale: tuple[float, float] = (1.0, 1.0)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        return np.array(self.pixels, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.pixels.shape
        view = self.view_position or f"{self.view} view"
        return f"<Radiograph {height} x {width}, {view}, {self.rendering}, {one_line(self.source)}>"

    def thumbnail(self) -> bytes:
        """The picture as a small JPEG file, for pages and notebooks."""
        picture = Image.fromarray(self.pixels)
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL), reducing_gap=2.0)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        return file.getvalue()

    def _repr_jpeg_(self) -> bytes:
        return self.thumbnail()


@dataclass
class Notes:
    """Facts and warnings gathered while one file is read."""

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, kind: str, text: str) -> None:
        """Add a warning, once for each kind."""
        if not any(warning.startswith(f"{kind}: ") for warning in self.warnings):
            self.warnings.append(f"{kind}: {text}")
