"""Boxes on a picture: checked once, in shares of its width and height, and how they overlap."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from llava_rad.errors import DataError, shown


@dataclass(frozen=True, order=True)
class Box:
    """A box in shares of a picture's width and height, from its upper left corner.

    Attributes:
        x_min: left edge, 0 to 1.
        y_min: upper edge.
        x_max: right edge, beyond the left one.
        y_max: lower edge, below the upper one.

    Raises:
        DataError: an edge is no finite number, lies outside the picture, or they are out of order.

    Example:
        >>> from llava_rad.boxes import Box
        >>> Box(0.25, 0.5, 0.5, 1.0).area
        0.125
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def __post_init__(self) -> None:
        for name in ("x_min", "y_min", "x_max", "y_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _wrong(f"{name} of a box is {shown(value)}", "Give it as a number")
            if not 0 <= value <= 1:  # nor NaN, nor a whole number that no float holds
                raise _wrong(
                    f"{name} of a box is {shown(value)}",
                    "Give shares of the picture's width and height, 0 to 1: divide pixels by them",
                )
            object.__setattr__(self, name, float(value))
        for low, high in (("x_min", "x_max"), ("y_min", "y_max")):
            if getattr(self, low) >= getattr(self, high):
                raise _wrong(
                    f"a box has {low} {getattr(self, low):g} and {high} {getattr(self, high):g}",
                    f"Give {low} below {high}",
                )
        if not self.area:  # of two edges that only just differ
            raise _wrong("a box has no area", "Give edges that are further apart")

    @classmethod
    def of_pixels(
        cls, x_min: float, y_min: float, x_max: float, y_max: float, *, width: float, height: float
    ) -> "Box":
        """A box given in pixels of a picture.

        Up to one pixel beyond the edge counts as the edge: annotation tools round.

        Raises:
            DataError: it lies further outside, or is no box.
        """
        try:
            edges = [x_min / width, y_min / height, x_max / width, y_max / height]
            for place, one in enumerate((1 / width, 1 / height) * 2):
                if -one <= edges[place] <= 1 + one:
                    edges[place] = min(max(edges[place], 0.0), 1.0)
            return cls(*edges)
        except (DataError, OverflowError, ZeroDivisionError) as error:
            raise _wrong(
                f"the box {', '.join(map(shown, (x_min, y_min, x_max, y_max)))} is none on a "
                f"picture of {shown(width)} x {shown(height)} pixels",
                "Give left, upper, right and lower edge inside the picture",
            ) from error

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> "Box":
        """The box of this centre and size, in shares, as far as the picture goes."""
        return cls(
            max(x - width / 2, 0.0),
            max(y - height / 2, 0.0),
            min(x + width / 2, 1.0),
            min(y + height / 2, 1.0),
        )

    def in_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge in pixels of a picture, to a tenth."""
        edges = (self.x_min * width, self.y_min * height, self.x_max * width, self.y_max * height)
        left, upper, right, lower = (round(edge, 1) for edge in edges)
        return left, upper, right, lower

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.x_max - self.x_min) * (self.y_max - self.y_min)

    def overlap(self, other: "Box") -> float:
        """Area of what lies in both."""
        width = min(self.x_max, other.x_max) - max(self.x_min, other.x_min)
        height = min(self.y_max, other.y_max) - max(self.y_min, other.y_min)
        return max(width, 0.0) * max(height, 0.0)

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0 to 1.

        Example:
            >>> from llava_rad.boxes import Box
            >>> Box(0, 0, 0.5, 0.5).iou(Box(0, 0, 0.5, 1))
            0.5
        """
        both = self.overlap(other)
        return both / (self.area + other.area - both)


def area_of(boxes: Iterable[Box]) -> float:
    """The share of the picture that some boxes cover together; what several cover counts once.

    Example:
        >>> from llava_rad.boxes import Box, area_of
        >>> area_of([Box(0, 0, 0.5, 1), Box(0.25, 0, 0.75, 1)])
        0.75
    """
    boxes = list(boxes)
    edges = sorted({edge for box in boxes for edge in (box.x_min, box.x_max)})
    total = 0.0
    for left, right in itertools.pairwise(edges):
        column = sorted((b.y_min, b.y_max) for b in boxes if b.x_min <= left and b.x_max >= right)
        covered, end = 0.0, 0.0
        for upper, lower in column:
            covered += max(lower - max(upper, end), 0.0)
            end = max(end, lower)
        total += covered * (right - left)
    return total


def common_area(first: Sequence[Box], second: Sequence[Box]) -> float:
    """The share of the picture that both lists of boxes cover."""
    return area_of(first) + area_of(second) - area_of([*first, *second])


def mean_box(boxes: Sequence[Box]) -> Box:
    """The box whose edges are the means of some boxes' edges; there is at least one."""
    columns = zip(*map(astuple, boxes), strict=True)
    return Box(*(math.fsum(column) / len(boxes) for column in columns))


def _wrong(what: str, remedy: str) -> DataError:
    return DataError(what, remedy=remedy, kind="bad_box")
