"""A finding and where on its image it is."""

from collections.abc import Iterable
from dataclasses import dataclass

from llava_rad.boxes import Box
from llava_rad.errors import DataError, shown


@dataclass(frozen=True)
class FindingBox:
    """A finding, and where on its image it is.

    Attributes:
        finding: the data set's word for it, such as ``"Nodule"``.
        box: in shares of the picture's width and height.
        sentence: of the study's findings that says it, or None.
        reader: who drew it, where several did, or None.

    Raises:
        DataError: a value is of another kind.

    Example:
        >>> from llava_rad.boxes import Box
        >>> from llava_rad.data import FindingBox
        >>> FindingBox("Nodule", Box(0.1, 0.2, 0.15, 0.25)).finding
        'Nodule'
    """

    finding: str
    box: Box
    sentence: str | None = None
    reader: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.finding, str) or not self.finding.strip():
            raise _wrong(f"finding of a box is {shown(self.finding)}", "Give it as a text")
        if not isinstance(self.box, Box):
            raise _wrong(f"the box of {self.finding!r} is {shown(self.box)}", "Give a Box")
        for name in ("sentence", "reader"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise _wrong(f"{name} of a box is {shown(value)}", "Give it as a text")
            object.__setattr__(self, name, (value or "").strip() or None)


def of_one_reader(boxes: Iterable[FindingBox]) -> list[FindingBox]:
    """Of each sentence (else finding) the boxes of the reader who comes first.

    Several readers draw one finding each in their way; taken together they would be several.
    """
    first: dict[str, str | None] = {}
    return [
        box
        for box in boxes
        if first.setdefault(box.sentence or box.finding, box.reader) == box.reader
    ]


def _wrong(what: str, remedy: str) -> DataError:
    return DataError(what, remedy=remedy, kind="bad_box")
