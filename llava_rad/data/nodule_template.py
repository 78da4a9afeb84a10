"""Findings text of JSRT: whether there is a nodule, in which lobe, and whether it is large."""

import re
from collections.abc import Mapping

from llava_rad.data.template import Statement, compose

_NONE: Statement = (
    "No lung nodule is seen.",
    "There is no pulmonary nodule.",
    "No nodule or mass in the lungs.",
)
# What is seen is a nodule up to 30 mm and a mass above (Fleischner Society, 2008).
_SIZES = ((10, "small nodule"), (20, "nodule"), (30, "large nodule"), (float("inf"), "mass"))
_WORDINGS = (
    "There is a {what} in the {place}.",
    "A {what} is seen in the {place}.",
    "A {what} is present in the {place}.",
    "A {what} projects over the {place}.",
)
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}
_PLACE = re.compile(r"(?P<side>[lr]|left|right)\W+(?:(?P<lobe>upper|middle|lower)\s+lobe|lung)\b")


def nodule_place(location: str) -> str | None:
    """A location in words: ``"l.upper lobe(S3)"`` is the left upper lobe; None without a side."""
    found = _PLACE.match(location.strip().lower())
    if found is None:
        return None
    side = _SIDES[found["side"]]
    return f"{side} {found['lobe']} lobe" if found["lobe"] else f"{side} lung"


def findings_from_nodule(nodule: bool, facts: Mapping[str, str], study_id: str) -> str:
    """Findings text of one study.

    Args:
        nodule: whether there is one.
        facts: ``location`` and ``nodule_mm`` as the data set has them, where it does.
        study_id: chooses the wording.
    """
    if not nodule:
        return compose([_NONE], study_id)
    place = nodule_place(facts.get("location", "")) or "lung"
    try:
        size = float(facts.get("nodule_mm", ""))
    except ValueError:
        size = 15.0  # unstated: neither small nor large
    what = next(name for most, name in _SIZES if size <= most)
    return compose([tuple(w.format(what=what, place=place) for w in _WORDINGS)], study_id)
