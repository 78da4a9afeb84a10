"""A report model's files, and the way to the hub."""

from pathlib import Path

from llava_rad.errors import WeightsError
from llava_rad.model.causal_lm import first_line
from llava_rad.model.encoder_heads import FILES as HEAD_FILES
from llava_rad.model.tokenizer import TOKENIZER_FILES

#: What is read of a report model's folder; nothing else is fetched from the hub or sent there.
MODEL_FILES = (
    "config.json",
    "processor.json",
    "adapter.safetensors",
    *HEAD_FILES,
    "README.md",
    "encoder/*.json",
    "encoder/*.safetensors",
    "lora/adapter_config.json",
    "lora/adapter_model.safetensors",
    "llm/*.json",
    "llm/*.safetensors",
    *(f"tokenizer/{name}" for name in TOKENIZER_FILES),
)


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
            f"the hub did not take it ({first_line(error)})",
            where=name,
            remedy="Check the name, and your rights with: hf auth whoami",
            kind="not_uploaded",
        ) from error
    return str(address)
