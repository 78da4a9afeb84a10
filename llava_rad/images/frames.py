"""Files that hold several pictures."""

from llava_rad.errors import ImageError

_REMEDY = "Choose one, counted from 1: --frame N, or frame=N in Python"


def chosen_frame(frames: int, frame: int | None) -> int:
    """Return the index, from 0, of the frame to read of a file.

    Args:
        frames: how many the file holds.
        frame: counted from 1, or None for the only one.

    Raises:
        ImageError: ``multi_frame`` if there are several to choose from, or no such frame.
    """
    if frame is None and frames > 1:
        raise ImageError(
            f"the file holds {frames} frames, a radiograph has one",
            remedy=_REMEDY,
            kind="multi_frame",
        )
    if frame is not None and not 1 <= frame <= frames:
        raise ImageError(
            f"there is no frame {frame}, the file holds {frames}",
            remedy=_REMEDY,
            kind="multi_frame",
        )
    return (frame or 1) - 1
