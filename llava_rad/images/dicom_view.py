"""The view of a radiograph by all that its DICOM header says of it."""

from collections.abc import Sequence

from llava_rad.views import view_of


def view_of_header(
    position: str | None,
    code_meaning: str | None,
    orientation: Sequence[str] = (),
    description: str | None = None,
) -> str:
    """The view: the first of the four that names one decides.

    A View Position that names another view, such as an oblique one, is not overruled by what comes
    after it.

    Args:
        position: View Position (0018,5101).
        code_meaning: Code Meaning of the View Code Sequence (0054,0220).
        orientation: Patient Orientation (0020,0020): where rows and columns point.
        description: Series Description (0008,103E).

    Returns:
        ``"frontal"``, ``"lateral"`` or ``"unknown"``; also where position and code contradict.
    """
    stated, coded = view_of(position), view_of(code_meaning)
    if "unknown" not in (stated, coded):
        return stated if stated == coded else "unknown"
    if stated != "unknown":
        return stated
    if _names_another_view(position):
        return "unknown"
    if coded != "unknown":
        return coded
    if _names_another_view(code_meaning):
        return "unknown"
    turned = _view_of_orientation(orientation)
    return turned if turned != "unknown" else view_of(description)


def _names_another_view(words: str | None) -> bool:
    """Whether words name a view that is neither frontal nor lateral: PA beside them is no help."""
    return bool(words) and view_of(f"{words} PA") == "unknown"


def _view_of_orientation(orientation: Sequence[str]) -> str:
    """The plane of the picture: left and right with head and foot is a frontal one.

    The first letter of each direction counts. A direction between two planes (``"LA"``) is of an
    oblique picture, and one that points from head to foot slightly forward (``"FA"``) is not.
    """
    # One value where there should be two is a text.
    parts = () if isinstance(orientation, str) else orientation
    directions = [str(direction).strip().upper() for direction in parts]
    if len(directions) != 2 or not all(directions):
        return "unknown"
    across = [d for d in directions if d[0] not in "HF"]
    if len(across) != 1:
        return "unknown"
    letters = set(across[0])
    if letters & set("LR") and letters & set("AP"):
        return "unknown"
    if across[0][0] in "LR":
        return "frontal"
    return "lateral" if across[0][0] in "AP" else "unknown"
