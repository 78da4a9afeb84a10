"""Findings text from Brixia scores (Borghesi and Maroldi, 2020): which zones, and how dense.

Each lung has three zones, and each zone a score from 0 (no abnormality) over 1 (interstitial
infiltrates) and 2 (interstitial and alveolar, interstitial more) to 3 (alveolar more).
"""

from collections.abc import Mapping

from llava_rad.data.template import Statement, compose

ZONES = {
    "A": ("right", "upper"),
    "B": ("right", "middle"),
    "C": ("right", "lower"),
    "D": ("left", "upper"),
    "E": ("left", "middle"),
    "F": ("left", "lower"),
}
_SEEN = 1.0  # mean score from which a zone is said to be affected
_DENSE = 2.0  # mean of the affected zones from which their opacities are called dense

_NONE: Statement = (
    "The lungs are clear.",
    "Both lungs are clear.",
    "No opacity is seen in the lungs.",
)
_WORDINGS = (
    "There are {what} in {where}.",
    "{What} are seen in {where}.",
    "{What} are present in {where}.",
)
_CLEAR = ("The {side} lung is clear.", "No opacity is seen in the {side} lung.")


def findings_from_zones(scores: Mapping[str, float], study_id: str) -> str:
    """Findings text of one study.

    Args:
        scores: of the zones ``A`` to ``F``, 0 to 3.
        study_id: chooses the wording.
    """
    seen = {zone for zone in ZONES if scores[zone] >= _SEEN}
    if not seen:
        return compose([_NONE], study_id)
    dense = sum(scores[zone] for zone in seen) / len(seen) >= _DENSE
    what = "dense airspace opacities" if dense else "hazy opacities"
    places = {
        side: [name for zone, (of, name) in ZONES.items() if of == side and zone in seen]
        for side in ("right", "left")
    }
    if places["right"] == places["left"]:
        where = f"the {_listed(places['left'], plural=True)} of both lungs"
    else:
        several = (
            f"the {_listed(names, plural=len(names) > 1)} of the {side} lung"
            for side, names in places.items()
            if names
        )
        where = " and ".join(several)
    words = {"what": what, "What": what.capitalize(), "where": where}
    statements = [tuple(wording.format(**words) for wording in _WORDINGS)]
    statements += [
        tuple(wording.format(side=side) for wording in _CLEAR)
        for side, names in places.items()
        if not names
    ]
    return compose(statements, study_id)


def _listed(names: list[str], *, plural: bool) -> str:
    joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{joined} zone{'s' * plural}"
