"""Where the files of metrics that need a network's weights are found."""

import hashlib
from pathlib import Path

from llava_rad.errors import WeightsError


def resolve_file(source: str | Path | None, *, repo: str, filename: str, metric: str) -> Path:
    """Find one file of a metric.

    Args:
        source: the file, a folder that holds it, or a hub repository, which may be downloaded
            from; nothing looks only into the local hub cache for ``repo``.
        repo: hub repository that publishes the file.
        filename: name of the file in its folder or repository.
        metric: named in the message.

    Raises:
        WeightsError: the file is not there (kind ``missing``); the remedy is the command that
            fetches it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if source is not None:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if (path / filename).is_file():
            return path / filename
    try:
        return Path(
            hf_hub_download(
                repo_id=str(source) if source is not None else repo,
                filename=filename,
                local_files_only=source is None,
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        where = f"{metric}: {source}" if source is not None else metric
        raise WeightsError(
            f"{filename} is not on this machine",
            where=where,
            remedy=f"Fetch it with: hf download {repo} {filename}",
            kind="missing",
        ) from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
