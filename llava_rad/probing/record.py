"""Results as plain data: what an encoder is, and estimates with what they mean."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from llava_rad.encoders import ImageEncoder
from llava_rad.probing.outcome import Estimate
from llava_rad.statistics import Difference

MEASURES = {
    "auroc": "area under the ROC curve; of several labels or classes the mean",
    "auprc": "average precision; of several labels the mean",
    "ece": "expected calibration error: mean distance between probabilities and shares of "
    "positives, ten bins; lower is better",
    "accuracy": "share of images whose class is right",
    "within_one": "share of images whose class is right or next to the right one",
    "mae": "mean absolute error, in the unit of the column; lower is better",
    "r2": "share of the variance that is explained",
    "correlation": "Pearson's correlation",
    "dice": "overlap of the masks, mean over images",
    "dice_present": "Dice over the images that show the structure",
    "surface_distance": "mean distance between the outlines in % of the image's longer side, that "
    "of the image's diagonal where nothing was outlined; lower is better",
    "missed": "images that show the structure and nothing of it was outlined; lower is better",
}

_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "ece": "calibration error",
    "within_one": "accuracy within one class",
    "mae": "mean absolute error",
    "r2": "R²",
    "dice": "Dice",
    "dice_present": "Dice where present",
    "surface_distance": "surface distance, %",
    "missed": "missed structures",
}


def measure_label(measure: str) -> str:
    """A measure's name as people write it: ``auroc/Edema`` is ``AUROC, Edema``."""
    name, _, of = measure.partition("/")
    said = _NAMES.get(name, name.replace("_", " "))
    return f"{said}, {of}" if of else said


def encoder_facts(encoder: ImageEncoder) -> dict[str, Any]:
    """What a row of a comparison has to state of an encoder."""
    preprocessing = encoder.preprocessing
    geometry = {
        "shorter_side_center_crop": f"shorter side {preprocessing.shorter_side}, centre crop",
        "pad_square": "padded to a square",
        "resize": "stretched to a square",
    }[preprocessing.geometry]
    return {
        "name": encoder.name,
        "input_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "tokens": encoder.num_tokens,
        "dim": encoder.dim,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "preprocessing": f"{geometry}, {preprocessing.interpolation}, "
        f"mean {preprocessing.mean[0]:.3f}, std {preprocessing.std[0]:.3f}, "
        f"{preprocessing.rendering}"
        + ", resized in float" * (preprocessing.resize_in == "float")
        + ", histogram equalised" * preprocessing.equalize,
        "fingerprint": encoder.fingerprint(),
    }


def to_plain(results: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates for JSON, which has no NaN."""
    return {name: _without_nan(asdict(result)) for name, result in results.items()}


def difference_to_plain(difference: Difference) -> dict[str, float | None]:
    """A difference for JSON and for tables, with ``low`` and ``high`` of its interval."""
    interval = difference.interval
    return _without_nan(
        {
            "difference": difference.difference,
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "p": difference.p,
        }
    )


def number(value: float | None) -> str:
    """A value as tables show it: three decimals, two from 10 on, empty where there is none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _without_nan(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {k: None if v is None or math.isnan(v) else v for k, v in values.items()}


def interval(low: float | None, high: float | None) -> str:
    """An interval as tables show it."""
    ends = [number(low), number(high)]
    return " to ".join(ends) if all(ends) else ""
