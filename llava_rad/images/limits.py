"""How large a file and its picture may be."""

from llava_rad.errors import ImageError

# 8192 x 8192: several times the largest flat-panel detector. A file that asks for more is damaged
# or made to fill the memory.
MAX_PIXELS = 2**26
MAX_BYTES = 2**30


def too_large(what: str) -> ImageError:
    """Return the error for something over a limit."""
    return ImageError(
        what, remedy="Pass a single radiograph, scaled down if need be", kind="too_large"
    )


def check_size(rows: int, columns: int) -> None:
    """Raise ImageError ``too_large`` or ``broken_image`` for a size that is no radiograph's."""
    if rows < 1 or columns < 1:
        raise ImageError(
            f"the picture has {rows} rows and {columns} columns",
            remedy="Export the image again",
            kind="broken_image",
        )
    if rows * columns > MAX_PIXELS:
        raise too_large(
            f"the picture has {rows} x {columns} pixels, more than {MAX_PIXELS} are refused"
        )
