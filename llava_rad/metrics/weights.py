"""Where the files of metrics that need a network's weights are found."""

from pathlib import Path

from llava_rad.errors import WeightsError
from llava_rad.hub import download_file


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
    if source is not None:
        path = Path(source).expanduser()
        if path.is_file():
            return path
        if (path / filename).is_file():
            return path / filename
    try:
        return download_file(str(source or repo), filename, local=source is None)
    except WeightsError as error:
        where = f"{metric}: {source}" if source is not None else metric
        raise WeightsError(
            f"{filename} is not on this machine",
            where=where,
            remedy=f"Fetch it with: hf download {repo} {filename}",
            kind="missing",
        ) from error
