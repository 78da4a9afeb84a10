"""DICOM files as radiographs."""

from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom import uid as uids

from llava_rad.errors import ImageError
from llava_rad.images.dicom_pixels import is_lossy, read_stored
from llava_rad.images.integrity import check_deflated
from llava_rad.images.lookup_table import LookupTable, read_table
from llava_rad.images.photometric import Curve, Levels, Window, levels_of, render
from llava_rad.images.radiograph import Notes, Radiograph, Rendering
from llava_rad.images.views import view_of

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_PROJECTION_MODALITIES = ("CR", "DX", "DR", "RG", "RF", "XA", "PX", "OT", "SC")
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG", "RIB", "TORAX")
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the Y of DICOM's YBR


def looks_like_dicom(data: bytes) -> bool:
    """Return whether data start like a DICOM file, with or without preamble and meta group."""
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    group, element = data[:2], data[2:4]
    if group not in (b"\x08\x00", b"\x02\x00", b"\x00\x08") or len(data) < 16:
        return False
    # A small element number, then a VR of two capitals or a 32-bit length that fits in the file.
    number = int.from_bytes(element, "big" if group == b"\x00\x08" else "little")
    has_vr = data[4:6].isalpha() and data[4:6].isupper()
    return number < 0x1200 and (has_vr or int.from_bytes(data[4:8], "little") < len(data))


def read_dicom(data: bytes, *, rendering: Rendering, source: str) -> Radiograph:
    """Read the bytes of a DICOM file.

    The order is: stored values within Bits Stored, modality step, value-of-interest step,
    polarity, 8 bits last. Photometric Interpretation decides the polarity.

    Raises:
        ImageError: see ``load_radiograph``.
    """
    notes = Notes({"file_format": "DICOM", "modality": "identity"})
    if data[:4] == b"DICM":
        data = bytes(128) + data  # written without its preamble
    _check_deflated(data)
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    if not len(dataset):
        # pydicom drops everything when the file ends inside an element of undefined length.
        if dataset.file_meta:
            raise ImageError(
                "nothing can be read after the meta header, the file is cut off or damaged",
                remedy="Copy or download the file again",
                kind="truncated_image",
            )
        raise ImageError(
            "the content is not DICOM",
            remedy="Pass a DICOM, PNG, JPEG or TIFF file",
            kind="not_dicom",
        )
    stored = read_stored(dataset, notes)
    photometric = (_text(dataset, "PhotometricInterpretation") or "").upper()
    notes.facts.update(
        photometric_interpretation=photometric,
        bits_allocated=int(dataset.get("BitsAllocated") or 0),
        bits_stored=int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 0),
        lossy=is_lossy(dataset),
    )
    if photometric in _MONOCHROME and stored.ndim == 2:
        pixels = _monochrome(dataset, stored, rendering, photometric == "MONOCHROME1", notes)
    elif photometric == "PALETTE COLOR" and stored.ndim == 2:
        pixels = _palette(dataset, stored, rendering, notes)
    elif photometric in _COLOR and stored.ndim == 3:
        pixels = _color(dataset, stored, rendering, notes)
    else:
        samples = 1 if stored.ndim == 2 else stored.shape[2]
        raise ImageError(
            f"Photometric Interpretation is {photometric or 'missing'} with {samples} samples a "
            "pixel, so it is not known which values are bright",
            remedy="Correct Photometric Interpretation (0028,0004) in the file",
            kind="unsupported_encoding",
        )
    position, view = _view(dataset, notes)
    _warn_of_unfit_objects(dataset, view, notes)
    return Radiograph(
        pixels=pixels,
        rendering=rendering,
        view=view,
        view_position=position,
        laterality=_text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
        pixel_spacing=_pixel_spacing(dataset, notes),
        photometric=notes.facts,
        warnings=tuple(notes.warnings),
        source=source,
    )


def _check_deflated(data: bytes) -> None:
    """Check a deflated data set before pydicom inflates it whole."""
    if uids.DeflatedExplicitVRLittleEndian.encode() in data[:2048] and data[128:132] == b"DICM":
        # Preamble, prefix, then the 12 bytes of the element that gives the meta group's length.
        start = 144 + int.from_bytes(data[140:144], "little")
        check_deflated(data[start:])


# ---- monochrome ----------------------------------------------------------------------------


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
    value = _number(dataset, f"{prefix}PixelPaddingValue")
    if value is None:
        return None
    limit = _number(dataset, f"{prefix}PixelPaddingRangeLimit")
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
    slope = _number(dataset, "RescaleSlope")
    intercept = _number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        return values
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        notes.warn("rescale", f"Rescale Slope {slope:g} is unusable and was left out")
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
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        notes.warn("voi", "the file states no usable window or VOI LUT; rendered by min-max")
        return None, "minmax"
    window = Window(center, width, (_text(dataset, "VOILUTFunction") or "LINEAR").upper())
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
    shape = (_text(dataset, "PresentationLUTShape") or "").upper()
    if shape and shape != ("INVERSE" if inverted else "IDENTITY"):
        notes.warn(
            "presentation_lut_shape",
            f"Presentation LUT Shape {shape} contradicts the Photometric Interpretation, which "
            "decided the polarity",
        )


# ---- color ---------------------------------------------------------------------------------


def _palette(
    dataset: Dataset, stored: NDArray[Any], rendering: Rendering, notes: Notes
) -> NDArray[np.uint8]:
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


# ---- facts of the header -------------------------------------------------------------------


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return the first value of an element as a number, None if there is none."""
    try:
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue | list | tuple):
            value = value[0] if len(value) else None
        return None if value is None or value == "" else float(value)
    except (ValueError, TypeError, OverflowError):
        return None


def _text(dataset: Dataset, keyword: str) -> str | None:
    value = dataset.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue | list | tuple):
        value = value[0] if len(value) else None
    return str(value).strip() or None if value is not None else None


def _view(dataset: Dataset, notes: Notes) -> tuple[str | None, str]:
    """Return the file's word for the view and what it means."""
    position = _text(dataset, "ViewPosition")
    codes = dataset.get("ViewCodeSequence")
    meaning = _text(codes[0], "CodeMeaning") if codes else None
    stated, coded = view_of(position), view_of(meaning)
    if "unknown" not in (stated, coded) and stated != coded:
        notes.warn("view", f"View Position says {position}, View Code says {meaning}")
        return position, "unknown"
    if stated == "unknown" and coded != "unknown":
        return position or meaning, coded
    return position or meaning, stated


def _pixel_spacing(dataset: Dataset, notes: Notes) -> tuple[float, float] | None:
    """Return the spacing in the patient if calibrated, else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            row, column = (float(number) for number in dataset.get(keyword) or ())
        except (ValueError, TypeError):
            continue
        if 0 < row < np.inf and 0 < column < np.inf:
            notes.facts["pixel_spacing_from"] = keyword
            return row, column
    return None


def _warn_of_unfit_objects(dataset: Dataset, view: str, notes: Notes) -> None:
    """Warn of objects that load well and still are not what a report model expects."""
    modality = _text(dataset, "Modality")
    if modality and modality.upper() not in _PROJECTION_MODALITIES:
        notes.warn("modality", f"Modality is {modality}, not projection radiography")
    part = _text(dataset, "BodyPartExamined")
    if part and not any(word in part.upper() for word in _CHEST_WORDS):
        notes.warn("body_part", f"Body Part Examined is {part}, not the chest")
    if (_text(dataset, "PresentationIntentType") or "").upper() == "FOR PROCESSING":
        notes.warn("for_processing", "detector data that were not processed for display")
    orientation = dataset.get("PatientOrientation")
    if view == "frontal" and orientation and str(orientation[0]).upper().startswith("R"):
        notes.warn(
            "mirrored",
            "Patient Orientation says that the patient's right is on the right of the picture; "
            "it was not turned",
        )
