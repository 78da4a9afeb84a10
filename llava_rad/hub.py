"""The one door to the hub: only the files that are read, into the hub's own cache.

Without a connection the hub's client tries again for half a minute where it is asked for a file,
and tells at once where it is asked for a repository. So all is asked for as parts of repositories.
"""

from collections.abc import Sequence
from pathlib import Path

from llava_rad.errors import WeightsError


def download(
    name: str, files: Sequence[str], revision: str | None = None, *, what: str = "model"
) -> Path:
    """The local snapshot of a hub repository with the files that match, fetched where missing.

    Without a connection (or with ``HF_HUB_OFFLINE=1``) it is what the cache holds.

    Args:
        name: OWNER/NAME.
        files: names and glob patterns, relative to the repository; nothing else is fetched.
        revision: commit, branch or tag.
        what: it is called, in messages.

    Raises:
        WeightsError: there is no such repository, or it cannot be reached.
    """
    return _snapshot(name, files, revision, what, local=False)


def download_file(
    name: str, file: str, revision: str | None = None, *, what: str = "", local: bool = False
) -> Path:
    """One file of a hub repository in the local cache, fetched where missing.

    Args:
        name: OWNER/NAME.
        file: its name, relative to the repository.
        revision: commit, branch or tag.
        what: the file is called, in messages; default: its name.
        local: look into the cache alone.

    Raises:
        WeightsError: there is no such repository or file, or it cannot be reached.
    """
    what = what or file
    path = _snapshot(name, [file], revision, what, file=file, local=local) / file
    if not path.is_file():
        raise _absent(name, what, f"there is no {file}", file)
    return path


def _snapshot(
    name: str,
    files: Sequence[str],
    revision: str | None,
    what: str,
    *,
    local: bool,
    file: str | None = None,
) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=list(files), local_files_only=local
        )
    except Exception as error:  # connection, HTTP, id, revision and disk errors of many classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise _absent(name, what, lines[0].rstrip("."), file) from error
    return Path(folder)


def _absent(name: str, what: str, reason: str, file: str | None = None) -> WeightsError:
    fetch = f"hf download {name} {file}" if file else f"hf download {name}"
    return WeightsError(
        f"the {what} is not on this machine and cannot be downloaded ({reason})",
        where=name,
        remedy=f"Check the name. With a connection, run `{fetch}`; or run `{fetch} --local-dir "
        "FOLDER` elsewhere, copy FOLDER here and name it instead",
        kind="not_downloaded",
    )
