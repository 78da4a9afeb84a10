"""The one form in which an X-ray image leaves this package."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Rendering = Literal["minmax", "voi"]


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One view of the chest as an 8-bit picture, and what was used to make it.

    Attributes:
        pixels: uint8 [height, width], 0 black to 255 white; bones are bright.
        rendering: ``"minmax"`` (smallest valid value 0, largest 255) or ``"voi"`` (the file's
            own value-of-interest table or window, as a viewer shows it).
        view: ``"frontal"``, ``"lateral"`` or ``"unknown"``; never a guess from the picture.
        view_position: the file's own word for the view, such as ``"PA"``, or None.
        laterality: ``"L"``, ``"R"`` or ``"B"`` as the file states it, or None.
        pixel_spacing: millimetres between rows and between columns, or None.
        photometric: facts of the file that were used, in plain JSON types. Always there:
            ``file_format``, ``photometric_interpretation`` (DICOM) or ``mode`` (other formats),
            ``bits_stored``, ``inverted``, ``voi`` (``"none"`` for the rendering ``"minmax"``,
            else ``"lut"``, ``"window"``, ``"full_range"`` or ``"minmax"``), ``value_range``
            (smallest and largest valid value), ``lossy``.
        warnings: each ``"kind: text"``; what was odd about the file and how it was read anyway.
            Kinds: ``transfer_syntax``, ``bits_stored``, ``rescale``, ``voi`` (rendered by min-max
            or another step than asked for), ``voi_lut``, ``presentation_lut_shape``,
            ``low_contrast``, ``view`` (contradictory), ``mirrored`` (left and right),
            ``modality``, ``body_part``, ``for_processing``, ``exif``, ``depth``.
        source: the path or name it was read from.
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


@dataclass
class Notes:
    """Facts and warnings gathered while one file is read."""

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, kind: str, text: str) -> None:
        """Add a warning, once for each kind."""
        if not any(warning.startswith(f"{kind}: ") for warning in self.warnings):
            self.warnings.append(f"{kind}: {text}")
