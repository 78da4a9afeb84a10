"""From the stored values of a DICOM file to grays.

The order is: stored values within Bits Stored, modality step, value-of-interest step, polarity,
8 bits, shutter. Photometric Interpretation decides the polarity.
"""

from typing import Any, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from llava_rad.errors import ImageError
from llava_rad.images.color import luma_of, warn_if_colored
from llava_rad.images.dicom_header import presentation_value_of
from llava_rad.images.dicom_pixels import StoredPixels
from llava_rad.images.dicom_values import code_of, number_of, text_of, value_of
from llava_rad.images.lookup_table import LookupTable, read_table
from llava_rad.images.photometric import (
    Curve,
    Picture,
    Region,
    Scale,
    Values,
    Window,
    blocks,
    extent,
    picture_of,
    render,
)
from llava_rad.images.radiograph import Notes, Rendering
from llava_rad.images.stored_bits import Evidence, upper_bits_are_foreign, within_bits

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
Integers = NDArray[np.integer]
_COLORS = ("Red", "Green", "Blue")


def grays_of(
    dataset: Dataset,
    stored: StoredPixels,
    rendering: Rendering,
    notes: Notes,
    region: Region | None,
) -> NDArray[np.uint8]:
    """Render decoded pixel data.

    Args:
        dataset: the header.
        stored: the pixel data.
        rendering: see ``load_radiograph``.
        notes: receives facts and warnings.
        region: what no shutter covers, or None if there is none. The rest is out of the range
            and shown as 0, with the rendering ``"voi"`` as the file says.

    Returns:
        uint8 [rows, columns].

    Raises:
        ImageError: ``unsupported_encoding`` if polarity or color are not stated, or what
            ``render`` raises.
    """
    try:
        gray = _rendered(dataset, stored, rendering, notes, region)
    except ImageError as error:
        if region is None or error.kind != "constant_image":
            raise
        notes.warn("shutter", "it leaves nothing but one gray and was ignored")
        return _rendered(dataset, stored, rendering, notes, None)
    if region is not None:
        gray[~region.shown] = presentation_value_of(dataset) if rendering == "voi" else 0
    return gray


def _rendered(
    dataset: Dataset,
    stored: StoredPixels,
    rendering: Rendering,
    notes: Notes,
    region: Region | None,
) -> NDArray[np.uint8]:
    values, photometric = stored.values, stored.photometric
    if photometric in _MONOCHROME and values.ndim == 2:
        return _monochrome(dataset, stored, rendering, notes, region)
    if photometric == "PALETTE COLOR" and values.ndim == 2:
        return _palette(dataset, stored, rendering, notes, region)
    if (photometric == "RGB" or photometric.startswith("YBR")) and values.ndim == 3:
        return _color(stored, rendering, notes, region)
    samples = 1 if values.ndim == 2 else values.shape[2]
    raise ImageError(
        f"Photometric Interpretation is {photometric} with {samples} samples a pixel, so it is "
        "not known which values are bright",
        remedy="Correct Photometric Interpretation (0028,0004) in the file",
        kind="unsupported_encoding",
    )


def _monochrome(
    dataset: Dataset,
    stored: StoredPixels,
    rendering: Rendering,
    notes: Notes,
    region: Region | None,
) -> NDArray[np.uint8]:
    inverted = stored.photometric == "MONOCHROME1"
    picture = picture_of(stored.values, region)
    scale = _stored_scale(dataset, stored, picture, notes)
    scale = _with_modality(dataset, picture, scale, notes)
    curve, name = None, "none"
    if rendering == "voi":
        curve, name = _voi(dataset, picture, scale, notes)
    _check_polarity(dataset, inverted, notes)
    return render(picture, scale, curve=curve, curve_name=name, inverted=inverted, notes=notes)


def _stored_scale(dataset: Dataset, stored: StoredPixels, picture: Picture, notes: Notes) -> Scale:
    """Return what of the stored values belongs to the picture, see ``stored_bits``."""
    pixels, bits = stored.values, stored.bits_stored
    dtype = pixels.dtype
    if dtype.kind == "f":
        prefix = "DoubleFloat" if dtype.itemsize == 8 else "Float"
        limits = _padding_limits(dataset, prefix, dtype)
        return Scale(padding=lambda values: _between(values, limits))
    signed = dtype.kind == "i"
    limits = _padding_limits(dataset, "", dtype)
    if limits is not None:
        notes.facts["padding"] = list(limits)

    def cut(values: Values) -> Values:
        return within_bits(values.astype(np.int64), bits, signed=signed).astype(np.float64)

    def padding(values: Values) -> NDArray[np.bool_]:
        if limits is None:
            return np.zeros(values.shape, bool)
        # Padding may have been written across all allocated bits or within the stored ones.
        beyond = cut(values)
        return _between(values, limits) | (_between(beyond, limits) & (beyond != values))

    whole = Scale(padding=padding)
    ends = extent(picture, whole)
    lowest, limit = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    if bits >= 8 * dtype.itemsize or ends is None or (lowest <= ends[0] and ends[1] < limit):
        return whole

    high_bit = int(number_of(dataset, "HighBit") or bits - 1)
    if bits <= high_bit < 8 * dtype.itemsize and not stored.syntax.is_compressed:
        # The value sits in the upper bits.
        places = high_bit + 1 - bits
        return Scale(lambda values: cut(np.floor(values / 2**places)), padding)
    if _has_overlay_bits(dataset, bits):
        notes.facts["overlay_bits_removed"] = True
        return Scale(cut, padding)
    if signed and ends[0] >= 0 and ends[1] < 2**bits:
        # Negative values were not extended over the unused bits.
        return Scale(cut, padding)
    padded = None
    if limits is not None:
        padded = picture.rendered(lambda values: padding(values).astype(np.uint8)).astype(bool)
    reach = f"Bits Stored is {bits}, but values reach from {ends[0]:.0f} to {ends[1]:.0f}; "
    if upper_bits_are_foreign(cast(Integers, pixels), padded, bits, _evidence(dataset)):
        notes.warn("bits_stored", f"{reach}the bits above hold something else and were removed")
        return Scale(cut, padding)
    notes.warn("bits_stored", f"{reach}all allocated bits were used")
    return whole


def _evidence(dataset: Dataset) -> Evidence:
    """Return what the header says of the stored values' range."""
    window = None
    center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
    slope = number_of(dataset, "RescaleSlope")
    slope, intercept = 1.0 if slope is None else slope, number_of(dataset, "RescaleIntercept") or 0
    if center is not None and width is not None and slope and not _modality_table(dataset):
        first, second = ((center + half - intercept) / slope for half in (-width / 2, width / 2))
        window = min(first, second), max(first, second)
    return Evidence(
        number_of(dataset, "SmallestImagePixelValue"),
        number_of(dataset, "LargestImagePixelValue"),
        window,
    )


def _has_overlay_bits(dataset: Dataset, bits: int) -> bool:
    """Return whether an overlay plane lives in the unused bits (retired, PS3.3 C.9.2)."""
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0102) not in dataset:
            continue
        position = number_of(dataset, group << 16 | 0x0102)
        if position is not None and position >= bits:
            return (group, 0x3000) not in dataset
    return False


def _padding_limits(
    dataset: Dataset, prefix: str, dtype: np.dtype[Any]
) -> tuple[float, float] | None:
    value = number_of(dataset, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = number_of(dataset, f"{prefix}PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if not prefix:
        # The VR may be US or SS whatever the sign of the pixels is.
        size = 2 ** (8 * dtype.itemsize)
        signed = dtype.kind == "i"
        ends = [e - size if signed and e >= size // 2 else e for e in ends]
        ends = [e + size if not signed and e < 0 else e for e in ends]
    return min(ends), max(ends)


def _between(values: NDArray[Any], limits: tuple[float, float] | None) -> NDArray[np.bool_]:
    if limits is None:
        return np.zeros(values.shape, bool)
    return (values >= limits[0]) & (values <= limits[1])


def _modality_table(dataset: Dataset) -> Any:
    return value_of(dataset, "ModalityLUTSequence")


def _with_modality(dataset: Dataset, picture: Picture, scale: Scale, notes: Notes) -> Scale:
    """Add the Modality LUT or the rescale slope and intercept."""
    sequence = _modality_table(dataset)
    if sequence:
        notes.facts["modality"] = "lut"
        try:
            table = _table(dataset, sequence[0], _lowest(picture, scale) < 0)
        except (ValueError, TypeError, AttributeError) as error:
            raise ImageError(
                f"the Modality LUT is unusable: {error}",
                remedy="Export the image again, or remove the Modality LUT Sequence",
                kind="broken_image",
            ) from error
        return Scale(lambda values: table.output(scale.modality(values)), scale.padding)
    slope = number_of(dataset, "RescaleSlope")
    intercept = number_of(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return scale
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        notes.warn("rescale", f"slope {slope:g} and intercept {intercept:g} were left out")
        return scale
    notes.facts.update(modality="rescale", rescale=[slope, intercept])
    return Scale(lambda values: scale.modality(values) * slope + intercept, scale.padding)


def _lowest(picture: Picture, scale: Scale) -> float:
    ends = extent(picture, scale)
    return 0.0 if ends is None else ends[0]


def _voi(
    dataset: Dataset, picture: Picture, scale: Scale, notes: Notes
) -> tuple[Curve | None, str]:
    """Return the value-of-interest step: the first LUT, else the first window, else min-max."""
    sequence = value_of(dataset, "VOILUTSequence")
    if sequence:
        try:
            table = _table(dataset, sequence[0], _lowest(picture, scale) < 0)
        except (ValueError, TypeError, AttributeError) as error:
            notes.warn("voi", f"the VOI LUT is unusable ({error})")
        else:
            if table.repair:
                notes.warn("voi_lut", table.repair)
            return table, "lut"
    center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
    if center is None or width is None:
        notes.warn("voi", "the file states no usable window or VOI LUT; rendered by min-max")
        return None, "minmax"
    function = "LINEAR"
    if value_of(dataset, "VOILUTFunction") is not None:
        function = (code_of(dataset, "VOILUTFunction") or "unreadable").upper()
    window = Window(center, width, function)
    problem = window.problem()
    if problem:
        notes.warn("voi", f"{problem}; rendered by min-max")
        return None, "minmax"
    notes.facts["window"] = [center, width, window.function]
    return window, "window"


def _table(dataset: Dataset, item: Dataset, signed_input: bool) -> LookupTable:
    """Read the item of a LUT sequence.

    Raises:
        ValueError: if the table is unusable, without a word of the file's.
    """
    descriptor, data = value_of(item, "LUTDescriptor"), value_of(item, "LUTData")
    if descriptor is None or data is None:
        raise ValueError("descriptor or data are missing or unreadable")
    return read_table(
        descriptor,
        data,
        little_endian=dataset.original_encoding[1] is not False,
        signed_input=signed_input,
    )


def _check_polarity(dataset: Dataset, inverted: bool, notes: Notes) -> None:
    shape = (text_of(dataset, "PresentationLUTShape") or "").upper()
    if shape and shape != ("INVERSE" if inverted else "IDENTITY"):
        name = code_of(dataset, "PresentationLUTShape") or ""
        notes.warn(
            "presentation_lut_shape",
            f"Presentation LUT Shape {name} contradicts the Photometric Interpretation, which "
            "decided the polarity",
        )


def _palette(
    dataset: Dataset,
    stored: StoredPixels,
    rendering: Rendering,
    notes: Notes,
    region: Region | None,
) -> NDArray[np.uint8]:
    dtype = stored.values.dtype
    picture = picture_of(stored.values, region)

    def index(values: Values) -> Values:
        if dtype.kind != "u":
            return values
        kept = within_bits(values.astype(np.int64), stored.bits_stored, signed=False)
        return kept.astype(np.float64)

    if value_of(dataset, f"{_COLORS[0]}PaletteColorLookupTableData") is not None:
        tables = [_palette_table(dataset, color, signed=dtype.kind == "i") for color in _COLORS]
        highest = max(int(table.entries.max()) for table in tables)

        def colors(values: Values) -> Values:
            return np.stack([table.output(index(values)) for table in tables], axis=-1)
    else:  # segmented
        everything = np.arange(2**16) if dtype.itemsize > 1 else np.arange(2**8)
        shown = pydicom.pixels.apply_color_lut(everything.astype(dtype), dataset)[..., :3]
        segmented = shown.astype(np.float64)
        highest = int(segmented.max())

        def colors(values: Values) -> Values:
            return segmented[index(values).astype(np.int64) % len(segmented)]

    # Whatever the descriptor says: entries are of 8 or of 16 bits.
    white = 255 if highest < 256 else 65535
    for part in picture.parts():
        warn_if_colored(colors(part.values), white, notes, counts=part.shown)
    scale = Scale(lambda values: luma_of(colors(values)))
    return _full_range(picture, scale, white, rendering, notes)


def _palette_table(dataset: Dataset, color: str, *, signed: bool) -> LookupTable:
    return read_table(
        value_of(dataset, f"{color}PaletteColorLookupTableDescriptor"),
        value_of(dataset, f"{color}PaletteColorLookupTableData"),
        little_endian=dataset.original_encoding[1] is not False,
        signed_input=signed,
    )


def _color(
    stored: StoredPixels, rendering: Rendering, notes: Notes, region: Region | None
) -> NDArray[np.uint8]:
    values, bits = stored.values, stored.bits_stored
    highest, foreign = int(values.max()), False
    if highest >= 2**bits:
        integers = cast(Integers, values)
        foreign = upper_bits_are_foreign(integers, None, bits, Evidence(None, None, None))
        notes.warn(
            "bits_stored",
            f"Bits Stored is {bits}, but values reach {highest}; "
            + ("the bits above were removed" if foreign else "all allocated bits were used"),
        )
        bits = bits if foreign else highest.bit_length()
    white = 2**bits - 1
    ybr = stored.photometric.startswith("YBR")
    if foreign:
        values = values & white
    warn_if_colored(values, white, notes, ybr=ybr)
    if ybr:
        luma = values[..., 0]
    else:
        luma = np.empty(values.shape[:2], values.dtype.newbyteorder("="))
        for rows in blocks(luma):
            luma[rows] = np.rint(luma_of(values[rows]))
    picture = picture_of(luma, region)
    return _full_range(picture, Scale(), white, rendering, notes)


def _full_range(
    picture: Picture, scale: Scale, white: int, rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
    """Render values that are grays already: as they are, or stretched to min-max."""
    return render(
        picture,
        scale,
        curve=(lambda grays: grays / white) if rendering == "voi" else None,
        curve_name="full_range" if rendering == "voi" else "none",
        inverted=False,
        notes=notes,
    )
