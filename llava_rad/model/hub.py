"""Folders of the hub: only the files that are read, into the hub's own cache and back."""

from collections.abc import Sequence
from pathlib import Path

from llava_rad.errors import WeightsError
from llava_rad.model.tokenizer import TOKENIZER_FILES

#: What is read of a report model's folder; nothing else is fetched from the hub or sent there.
MODEL_FILES = (
    "config.json",
    "processor.json",
    "adapter.safetensors",
    "README.md",
    "encoder/*.json",
    "encoder/*.safetensors",
    "lora/adapter_config.json",
    "lora/adapter_model.safetensors",
    "llm/*.json",
    "llm/*.safetensors",
    *(f"tokenizer/{name}" for name in TOKENIZER_FILES),
)


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


def upload(
    folder: Path, name: str, *, card: str, private: bool, message: str, token: str | None = None
) -> str:
    """Send a report model's files to a hub repository, in one commit.

    Args:
        folder: of the model; of its files those of :data:`MODEL_FILES` are sent.
        name: OWNER/NAME; made where it is not there.
        card: text of the README.
        private: of a repository that is made.
        message: of the commit.
        token: of the hub; None is the one that ``hf auth login`` keeps.

    Returns:
        The repository's address.

    Raises:
        WeightsError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted({file for pattern in MODEL_FILES for file in folder.glob(pattern)})
    added = [
        CommitOperationAdd(place, str(file))
        for file in files
        if (place := file.relative_to(folder).as_posix()) != "README.md"
    ]
    added.append(CommitOperationAdd("README.md", card.encode()))
    try:
        api = HfApi(token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, added, commit_message=message)
    except Exception as error:  # connection, HTTP, id, rights and disk errors of many classes
        raise WeightsError(
            f"the hub did not take it ({_first_line(error)})",
            where=name,
            remedy="Check the name, and your rights with: hf auth whoami",
            kind="not_uploaded",
        ) from error
    return str(address)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
