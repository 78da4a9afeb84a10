"""How large or small a file and its picture may be."""

from llava_rad.errors import ImageError

# 8192 x 8192: several times the largest flat-panel detector. A file that asks for more is damaged
# or made to fill the memory.
MAX_PIXELS = 2**26
MAX_BYTES = 2**30
# What a deflated file may hold before its pixel data.
MAX_HEADER_BYTES = 2**26
# An icon, a mark or a cut-out: no chest can be read from less.
MIN_SIDE = 32


def too_large(what: str) -> ImageError:
    """Return the error for something over a limit."""
    return ImageError(
        what, remedy="Pass a single radiograph, scaled down if need be", kind="too_large"
    )


def check_size(rows: int, columns: int, *, smallest: int = MIN_SIDE) -> None:
    """Check the size of a picture before memory is given to it.

    Raises:
        ImageError: ``broken_image`` if a side is 0, ``too_small`` if one is under ``smallest``,
            ``too_large``.
    """
    if rows < 1 or columns < 1:
        raise ImageError(
            f"the picture has {rows} rows and {columns} columns",
            remedy="Export the image again",
            kind="broken_image",
        )
    if min(rows, columns) < smallest:
        raise ImageError(
            f"the picture has {rows} x {columns} pixels, under {smallest} a side are refused",
            remedy="Pass the radiograph itself, not an icon or a cut-out of it",
            kind="too_small",
        )
    if rows * columns > MAX_PIXELS:
        raise too_large(
            f"the picture has {rows} x {columns} pixels, more than {MAX_PIXELS} are refused"
        )
