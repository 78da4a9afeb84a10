"""From the stored values of a DICOM file to grays.

The order is: stored values within Bits Stored, modality step, value-of-interest step, polarity,
8 bits last. Photometric Interpretation decides the polarity.
"""

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from llava_rad.errors import ImageError
from llava_rad.images.dicom_header import number_of, text_of
from llava_rad.images.lookup_table import LookupTable, read_table
from llava_rad.images.photometric import Curve, Levels, Window, levels_of, render
from llava_rad.images.radiograph import Notes, Rendering

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the Y of DICOM's YBR


def grays_of(
    dataset: Dataset, stored: NDArray[Any], rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
    """Render decoded pixel data.

    Args:
        dataset: the header.
        stored: [rows, columns] or [rows, columns, 3], see ``dicom_pixels.read_stored``.
        rendering: see ``load_radiograph``.
        notes: receives facts and warnings.

    Returns:
        uint8 [rows, columns].

    Raises:
        ImageError: ``unsupported_encoding`` if polarity or color are not stated, or what
            ``render`` raises.
    """
    photometric = (text_of(dataset, "PhotometricInterpretation") or "").upper()
    notes.facts["photometric_interpretation"] = photometric
    if photometric in _MONOCHROME and stored.ndim == 2:
        return _monochrome(dataset, stored, rendering, photometric == "MONOCHROME1", notes)
    if photometric == "PALETTE COLOR" and stored.ndim == 2:
        return _palette(dataset, stored, rendering, notes)
    if photometric in _COLOR and stored.ndim == 3:
        return _color(dataset, stored, rendering, notes)
    samples = 1 if stored.ndim == 2 else stored.shape[2]
    raise ImageError(
        f"Photometric Interpretation is {photometric or 'missing'} with {samples} samples a "
        "pixel, so it is not known which values are bright",
        remedy="Correct Photometric Interpretation (0028,0004) in the file",
        kind="unsupported_encoding",
    )


def _monochrome(
    dataset: Dataset, stored: NDArray[Any], rendering: Rendering, inverted: bool, notes: Notes
) -> NDArray[np.uint8]:
    levels = levels_of(stored)
    values, padding = _within_bits_stored(dataset, levels, stored.dtype, notes)
    values = _modality(dataset, values, notes)
    curve, name = None, "none"
    if rendering == "voi":
        curve, name = _voi(dataset, values, notes)
    _check_polarity(dataset, inverted, notes)
    return render(
        levels,
        values,
        padding=padding,
        curve=curve,
        curve_name=name,
        inverted=inverted,
        notes=notes,
    )


def _within_bits_stored(
    dataset: Dataset, levels: Levels, dtype: np.dtype[Any], notes: Notes
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each level's stored value and whether it is padding."""
    if dtype.kind == "f":
        prefix = "DoubleFloat" if dtype.itemsize == 8 else "Float"
        limits = _padding_limits(dataset, prefix, signed=True)
        return levels.values, _between(levels.values, limits)
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    allocated = 8 * dtype.itemsize
    signed = dtype.kind == "i"
    raw = levels.values.astype(np.int64)

    def within(values: NDArray[np.int64]) -> NDArray[np.int64]:
        kept = values & (2**bits - 1)
        return kept - 2**bits * (kept >= 2 ** (bits - 1)) if signed else kept

    limits = _padding_limits(dataset, "", signed=signed)
    padding = _between(raw, limits)
    if limits is not None:
        # Padding may have been written across all allocated bits or within the stored ones.
        padding |= _between(within(raw), limits) & (within(raw) != raw)
        notes.facts["padding"] = list(limits)
    used = (levels.counts > 0) & ~padding
    if bits >= allocated or not used.any() or (within(raw) == raw)[used].all():
        return raw.astype(np.float64), padding

    high_bit = int(dataset.get("HighBit") or bits - 1)
    if bits <= high_bit < allocated and not _is_compressed(dataset):
        # The value sits in the upper bits.
        return within(raw >> (high_bit + 1 - bits)).astype(np.float64), padding
    if _has_overlay_bits(dataset, bits):
        notes.facts["overlay_bits_removed"] = True
        return within(raw).astype(np.float64), padding
    if signed and (raw[used] >= 0).all() and (raw[used] < 2**bits).all():
        # Negative values were not extended over the unused bits.
        return within(raw).astype(np.float64), padding
    notes.warn(
        "bits_stored",
        f"Bits Stored is {bits}, but values reach from {raw[used].min()} to {raw[used].max()}; "
        "all allocated bits were used",
    )
    return raw.astype(np.float64), padding


def _is_compressed(dataset: Dataset) -> bool:
    return bool(dataset.file_meta.TransferSyntaxUID.is_compressed)


def _has_overlay_bits(dataset: Dataset, bits: int) -> bool:
    """Return whether an overlay plane lives in the unused bits (retired, PS3.3 C.9.2)."""
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        if position is not None and position.value and int(position.value) >= bits:
            return (group, 0x3000) not in dataset
    return False


def _padding_limits(dataset: Dataset, prefix: str, *, signed: bool) -> tuple[float, float] | None:
    value = number_of(dataset, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = number_of(dataset, f"{prefix}PixelPaddingRangeLimit")
    ends = [value, value if limit is None else limit]
    if not prefix:
        # The VR may be US or SS whatever the sign of the pixels is.
        size = 2 ** int(dataset.BitsAllocated)
        ends = [e - size if signed and e >= size // 2 else e for e in ends]
        ends = [e + size if not signed and e < 0 else e for e in ends]
    return min(ends), max(ends)


def _between(values: NDArray[Any], limits: tuple[float, float] | None) -> NDArray[np.bool_]:
    if limits is None:
        return np.zeros(values.shape, bool)
    return (values >= limits[0]) & (values <= limits[1])


def _modality(dataset: Dataset, values: NDArray[np.float64], notes: Notes) -> NDArray[np.float64]:
    """Apply the Modality LUT or the rescale slope and intercept."""
    sequence = dataset.get("ModalityLUTSequence")
    if sequence:
        notes.facts["modality"] = "lut"
        try:
            return _table(dataset, sequence[0], values).output(values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ImageError(
                f"the Modality LUT is unusable: {error}",
                remedy="Export the image again, or remove the Modality LUT Sequence",
                kind="broken_image",
            ) from error
    slope = number_of(dataset, "RescaleSlope")
    intercept = number_of(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return values
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        notes.warn("rescale", f"slope {slope:g} and intercept {intercept:g} were left out")
        return values
    notes.facts.update(modality="rescale", rescale=[slope, intercept])
    return values * slope + intercept


def _voi(dataset: Dataset, values: NDArray[np.float64], notes: Notes) -> tuple[Curve | None, str]:
    """Return the value-of-interest step: the first LUT, else the first window, else min-max."""
    sequence = dataset.get("VOILUTSequence")
    if sequence:
        try:
            table = _table(dataset, sequence[0], values)
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
    window = Window(center, width, (text_of(dataset, "VOILUTFunction") or "LINEAR").upper())
    problem = window.problem()
    if problem:
        notes.warn("voi", f"{problem}; rendered by min-max")
        return None, "minmax"
    notes.facts["window"] = [center, width, window.function]
    return window, "window"


def _table(dataset: Dataset, item: Dataset, values: NDArray[np.float64]) -> LookupTable:
    return read_table(
        item.LUTDescriptor,
        item.LUTData,
        little_endian=dataset.original_encoding[1] is not False,
        signed_input=bool(values.min() < 0),
    )


def _check_polarity(dataset: Dataset, inverted: bool, notes: Notes) -> None:
    shape = (text_of(dataset, "PresentationLUTShape") or "").upper()
    if shape and shape != ("INVERSE" if inverted else "IDENTITY"):
        notes.warn(
            "presentation_lut_shape",
            f"Presentation LUT Shape {shape} contradicts the Photometric Interpretation, which "
            "decided the polarity",
        )


def _palette(
    dataset: Dataset, stored: NDArray[Any], rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
    if stored.dtype.kind == "u":
        stored = stored & (2 ** int(dataset.BitsStored) - 1)
    levels = levels_of(stored)
    names = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
    if f"{names[0]}Data" in dataset:
        tables = [
            read_table(
                dataset[f"{name}Descriptor"].value,
                dataset[f"{name}Data"].value,
                little_endian=dataset.original_encoding[1] is not False,
                signed_input=stored.dtype.kind == "i",
            )
            for name in names
        ]
        colors = np.stack([table.output(levels.values) for table in tables], axis=-1)
        highest = max(int(table.entries.max()) for table in tables)
    else:  # segmented
        index = levels.values.astype(stored.dtype)
        colors = pydicom.pixels.apply_color_lut(index, dataset)[..., :3].astype(np.float64)
        highest = int(colors.max())
    # Whatever the descriptor says: entries are of 8 or of 16 bits.
    return _full_range(levels, colors @ _LUMA, 255 if highest < 256 else 65535, rendering, notes)


def _color(
    dataset: Dataset, stored: NDArray[Any], rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
    luma = np.rint(stored[..., :3] @ _LUMA).astype(stored.dtype)
    levels = levels_of(luma)
    white = 2 ** int(dataset.BitsStored) - 1
    return _full_range(levels, levels.values, white, rendering, notes)


def _full_range(
    levels: Levels, values: NDArray[np.float64], white: int, rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
    """Render values that are grays already: as they are, or stretched to min-max."""
    return render(
        levels,
        values,
        padding=np.zeros(values.shape, bool),
        curve=(lambda grays: grays / white) if rendering == "voi" else None,
        curve_name="full_range" if rendering == "voi" else "none",
        inverted=False,
        notes=notes,
    )
