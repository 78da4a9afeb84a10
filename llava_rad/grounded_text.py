"""Text with a box for a sentence, as MAIRA-2 writes it (Bannur et al., arXiv:2406.04449).

``<obj>There is a nodule.<box><x12><y34><x18><y40></box></obj><obj>The heart is normal.</obj>``

Each sentence stands between ``<obj>`` and ``</obj>``, the boxes of what it says at its end. A
box is left, upper, right and lower edge, each one of 100 equal parts of the square that the encoder
sees; it is read as the middle of that part, as MAIRA-2's processor does.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llava_rad.boxes import Box
from llava_rad.errors import DataError
from llava_rad.sentences import sentence_spans

BINS = 100

#: A mark of the form, alone: what separates it from a report's words.
MARK = re.compile(r"</?(?:obj|box)>|<[xy]\d{1,3}>")
_EDGE = re.compile(r"<([xy])(\d{1,3})>")
_ORDER = ("x", "y", "x", "y")
_STRICT_BOX = r"<box><x\d{1,2}><y\d{1,2}><x\d{1,2}><y\d{1,2}></box>"
_STRICT = re.compile(rf"<obj>(?:(?!{MARK.pattern}).)*(?:{_STRICT_BOX}\s*)*</obj>\s*", re.DOTALL)
# What may become a mark when the text goes on.
_BEGUN = re.compile(r"<(?:/?(?:o(?:bj?)?|b(?:ox?)?)?|[xy]\d{0,3})$")


@dataclass(frozen=True)
class GroundedPhrase:
    """A sentence of a text and its boxes.

    Attributes:
        start: its first character in the text.
        end: the one after its last.
        boxes: of what it says, in shares of the encoder's square; none where it has none.
    """

    start: int
    end: int
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class GroundedText:
    """A text without marks, and what its marks said.

    Attributes:
        text: the words alone, as all metrics take them.
        phrases: its sentences in order; none where the text had no marks.
        malformed: boxes that could not be read.
        places: where each character of the text stood in what was read.
    """

    text: str
    phrases: tuple[GroundedPhrase, ...]
    malformed: int
    places: Sequence[int]


def write_grounded(sentences: Sequence[tuple[str, Sequence[Box]]]) -> str:
    """Sentences with their boxes as MAIRA-2's text.

    Args:
        sentences: each with its boxes in shares of the encoder's square.

    Example:
        >>> from llava_rad.boxes import Box
        >>> from llava_rad.grounded_text import write_grounded
        >>> write_grounded([("A nodule.", [Box(0.121, 0.34, 0.189, 0.4)]), ("No effusion.", [])])
        '<obj>A nodule.<box><x12><y34><x18><y40></box></obj><obj>No effusion.</obj>'
    """
    return "".join(
        f"<obj>{sentence}{''.join(map(_written, boxes))}</obj>" for sentence, boxes in sentences
    )


def ground_text(text: str, boxes: Sequence[tuple[str, Box]]) -> str:
    """A report's text with the boxes of its sentences.

    Args:
        text: the words alone.
        boxes: each with the sentence that it belongs to; others are left out.
    """
    text = " ".join(text.split())
    of: dict[str, list[Box]] = {}
    for sentence, box in boxes:
        if sentence.strip():
            of.setdefault(" ".join(sentence.split()), []).append(box)
    # What has boxes is one phrase, whatever stops are in it; said twice, it has them once.
    phrases: list[tuple[str, Sequence[Box]]] = []
    end = 0
    for start, sentence in sorted((_place(text, sentence), sentence) for sentence in of):
        if start >= end:
            phrases += _plain(text[end:start])
            phrases.append((sentence, of[sentence]))
            end = start + len(sentence)
    return write_grounded([*phrases, *_plain(text[end:])])


def _place(text: str, sentence: str) -> int:
    """Where a sentence begins in a text; -1 where it does not stand there.

    A sentence of its own comes before the same words at the end of another: "effusion." before
    "No effusion.".
    """
    alone = re.search(rf"(?:^|(?<=[.!?] )){re.escape(sentence)}(?: |$)", text)
    return alone.start() if alone else text.find(sentence)


def _plain(text: str) -> list[tuple[str, Sequence[Box]]]:
    return [(text[start:end], ()) for start, end in sentence_spans(text)]


def read_grounded(text: str, *, strict: bool = False) -> GroundedText:
    """The words of a text and the boxes of its sentences.

    A text without marks comes back as it is. Models make mistakes, so by default whatever can be
    read is: words outside of the marks are kept, an open mark ends with the text, a box with other
    than four edges, or edges out of order, is counted as malformed and left out. Two equal edges
    are the two sides of their part.

    Args:
        text: as it was generated.
        strict: refuse everything that is not of the form.

    Raises:
        DataError: in strict reading, where the text is not of the form.

    Example:
        >>> from llava_rad.grounded_text import read_grounded
        >>> read = read_grounded("<obj>A nodule.<box><x12><y34><x18><y40></box></obj>")
        >>> read.text, read.phrases[0].boxes[0].x_min
        ('A nodule.', 0.125)
    """
    if not MARK.search(text):
        return GroundedText(text, (), 0, range(len(text)))
    if strict:
        _require_form(text)
    reader = _Reader()
    end = 0
    for mark in MARK.finditer(text):
        reader.words(text[end : mark.start()], end)
        reader.mark(mark[0])
        end = mark.end()
    reader.words(text[end:], end)
    found = reader.finish()
    if strict and found.malformed:
        raise _not_the_form(text, "a box has its edges out of order")
    return found


def growing_text(text: str) -> str:
    """The words of a text that is being written, as far as no later mark changes them."""
    return read_grounded(_BEGUN.sub("", text)).text


def _require_form(text: str) -> None:
    place = len(text) - len(text.lstrip())
    while place < len(text):
        found = _STRICT.match(text, place)
        if found is None:
            raise _not_the_form(text, f"from character {place}: {text[place : place + 40]!r}")
        place = found.end()


def _not_the_form(text: str, what: str) -> DataError:
    return DataError(
        f"the text is not of the form of grounded findings ({what})",
        remedy="Write <obj>sentence<box><x12><y34><x18><y40></box></obj>, or read it leniently",
        kind="bad_grounded_text",
    )


def _written(box: Box) -> str:
    left, right = _bins(box.x_min, box.x_max)
    upper, lower = _bins(box.y_min, box.y_max)
    return f"<box><x{left}><y{upper}><x{right}><y{lower}></box>"


def _bins(low: float, high: float) -> tuple[int, int]:
    # What a float lacks to a whole number is no part less.
    first, last = (min(math.floor(edge * BINS + 1e-9), BINS - 1) for edge in (low, high))
    return first, last


def _edges(low: int, high: int) -> tuple[float, float]:
    if low == high:
        return low / BINS, (high + 1) / BINS
    return (low + 0.5) / BINS, (high + 0.5) / BINS


class _Reader:
    """Takes words and marks in their order."""

    def __init__(self) -> None:
        self.text = ""
        self.places: list[int] = []
        self.phrases: list[GroundedPhrase] = []
        self.malformed = 0
        self._boxes: list[Box] = []
        self._start: int | None = None  # of the phrase that is read
        self._edges: list[tuple[str, int]] | None = None  # of the box that is read
        self._gap = False  # white space before the next word

    def words(self, words: str, place: int) -> None:
        """Words, and where they stood."""
        if not words.strip():
            self._gap = self._gap or bool(words)
            return
        self._leave_box()
        if self._boxes:  # a sentence goes on behind its boxes: another one
            self._end_phrase()
        lead = len(words) - len(words.lstrip())
        if self.text and (self._gap or lead or self._start is None):
            self.text += " "
            self.places.append(place)
        if self._start is None:
            self._start = len(self.text)
        stripped = words.strip()
        self.text += stripped
        self.places += range(place + lead, place + lead + len(stripped))
        self._gap = words[-1].isspace()

    def mark(self, mark: str) -> None:
        """A mark between words."""
        edge = _EDGE.fullmatch(mark)
        if edge is not None:
            if self._edges is None:  # outside of a box: the rest of one
                self._edges = [("", 0)]
            self._edges.append((edge[1], int(edge[2])))
        elif mark == "<box>":
            self._leave_box()
            self._edges = []
        elif mark == "</box>":
            self._close_box()
        else:
            self._leave_box()
            self._end_phrase()

    def finish(self) -> GroundedText:
        """What was read, once everything was given."""
        self._leave_box()
        self._end_phrase()
        return GroundedText(self.text, tuple(self.phrases), self.malformed, self.places)

    def _close_box(self) -> None:
        box = _box_of(self._edges or [])
        self._edges, self._gap = None, True
        if box is None or (self._start is None and not self.phrases):
            self.malformed += 1
        elif self._start is not None:
            self._boxes.append(box)
        else:  # behind the end of its sentence
            last = self.phrases[-1]
            self.phrases[-1] = GroundedPhrase(last.start, last.end, (*last.boxes, box))

    def _leave_box(self) -> None:
        if self._edges is not None:
            self.malformed += 1
            self._edges, self._gap = None, True

    def _end_phrase(self) -> None:
        if self._start is not None:
            self.phrases.append(GroundedPhrase(self._start, len(self.text), tuple(self._boxes)))
        self._start, self._boxes, self._gap = None, [], False


def _box_of(edges: Sequence[tuple[str, int]]) -> Box | None:
    if tuple(axis for axis, _ in edges) != _ORDER:
        return None
    left, upper, right, lower = (number for _, number in edges)
    if not (left <= right < BINS and upper <= lower < BINS):
        return None
    (x_min, x_max), (y_min, y_max) = _edges(left, right), _edges(upper, lower)
    return Box(x_min, y_min, x_max, y_max)
