"""Folders of the hub: only the files that are read, into the hub's own cache."""

from collections.abc import Sequence
from pathlib import Path

from llava_rad.errors import WeightsError


def download(name: str, files: Sequence[str], revision: str | None = None) -> Path:
    """The local snapshot of a hub repository with the files that match, fetched where missing.

    Without a connection (or with ``HF_HUB_OFFLINE=1``) it is what the cache holds.

    Args:
        name: OWNER/NAME.
        files: names and glob patterns, relative to the repository; nothing else is fetched.
        revision: commit, branch or tag.

    Raises:
        WeightsError: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # connection, HTTP, id, revision and disk errors of many classes
        raise WeightsError(
            f"no such folder here, and the hub did not give it ({_first_line(error)})",
            where=name,
            remedy=f"Check the name, or download it once with: hf download {name}",
            kind="not_downloaded",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
