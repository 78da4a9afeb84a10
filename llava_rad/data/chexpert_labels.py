"""The 14 CheXpert observations (Irvin et al., 2019), as several data sets carry them."""

from collections.abc import Mapping
from typing import Any

from llava_rad.observations import OBSERVATIONS


def parse_chexpert_labels(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Label values 1.0, 0.0, -1.0 (uncertain) or None (not mentioned) from a table's row."""
    return {name: _value(row.get(name)) for name in OBSERVATIONS}


def _value(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if value in (-1.0, 0.0, 1.0) else None
