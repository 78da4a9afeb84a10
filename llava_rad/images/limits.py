"""How large a picture may be."""

from llava_rad.errors import ImageError

# 8192 x 8192: several times the largest flat-panel detector. A file that asks for more is damaged
# or made to fill the memory.
MAX_PIXELS = 2**26


def check_size(rows: int, columns: int) -> None:
    """Raise ImageError ``too_large`` or ``broken_image`` for a size that is no radiograph's."""
    if rows < 1 or columns < 1:
        raise ImageError(
            f"the picture has {rows} rows and {columns} columns",
            remedy="Export the image again",
            kind="broken_image",
        )
    if rows * columns > MAX_PIXELS:
        raise ImageError(
            f"the picture has {rows} x {columns} pixels, more than {MAX_PIXELS} are refused",
            remedy="Scale it down before loading",
            kind="too_large",
        )
