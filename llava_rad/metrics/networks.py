"""Networks of metrics in transformers' layout: found on this machine, and loaded as data alone."""

import hashlib
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rad.errors import WeightsError, cut
from llava_rad.hub import download_file

if TYPE_CHECKING:
    import torch

_REPOSITORY = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
_SMALL = 1 << 24  # bytes; of larger files the two ends tell versions apart


def find_network(model: str, metric: str) -> Path:
    """The folder of a model: one of that name, or its snapshot in the local hub cache.

    Raises:
        WeightsError: it is not on this machine (kind ``missing``); the remedy fetches it.
    """
    if (Path(model).expanduser() / "config.json").is_file():
        return Path(model).expanduser()
    try:
        return download_file(model, "config.json", local=True).parent
    except WeightsError as error:
        raise missing_network(model, metric) from error


def missing_network(
    model: str, metric: str, what: str = "the model is not on this machine"
) -> WeightsError:
    """What is said of a model that is not here, or not all of it."""
    of_hub = _REPOSITORY.fullmatch(model) and not Path(model).is_dir()
    return WeightsError(
        what,
        where=f"{metric}: {model}",
        remedy=f"Fetch it with: hf download {model}"
        if of_hub
        else "Name the folder with the model's config.json, weights and tokenizer, or a hub id",
        kind="missing",
    )


def load_network(
    model: str,
    auto: str,
    *,
    metric: str,
    tokenizer_options: dict[str, Any] | None = None,
    tokenizer: bool = True,
    dtype: "torch.dtype | None" = None,
    device: "str | torch.device | None" = None,
) -> tuple[Any, Any]:
    """A network and its tokenizer, ready to evaluate.

    Args:
        model: folder, or hub id of a model that is in the local cache.
        auto: transformers' class that reads it, such as ``"AutoModel"``.
        metric: named in messages.
        tokenizer_options: for ``AutoTokenizer``.
        tokenizer: whether it has one; without, None is returned for it.
        dtype: of the weights; float32 by default.
        device: where it runs; CUDA where there is one by default.

    Raises:
        WeightsError: it is not there (kind ``missing``), is damaged, or needs code of its own.
    """
    folder = find_network(model, metric)
    # Imported after the look-up, so that a missing model is told at once.
    import torch
    import transformers

    # A folder may name code of its own; it is neither run nor asked about.
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        words = None
        if tokenizer:
            words = transformers.AutoTokenizer.from_pretrained(
                folder, **options, **(tokenizer_options or {})
            )
        network = getattr(transformers, auto).from_pretrained(folder, weights_only=True, **options)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise WeightsError(
                "the model needs code of its own, which is not run",
                where=f"{metric}: {model}",
                remedy="Use a model that transformers has",
                kind="foreign_code",
            ) from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what = f"the model cannot be read ({cut(lines[0], 200).rstrip('.')})"
        raise missing_network(model, metric, what) from error
    except Exception as error:  # pickle and safetensors readers raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "its weights hold objects that can run code" if unsafe else lines[0]
        raise WeightsError(
            f"the model cannot be loaded ({reason.rstrip('.')})",
            where=f"{metric}: {model}",
            remedy=f"Fetch it again with: hf download {model}",
            kind="damaged_weights",
        ) from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return network.to(dtype or torch.float32).to(device).eval(), words


def network_version(model: str, metric: str) -> str:
    """SHA-256 of a model's files, of each large one its size and its two ends."""
    digest = hashlib.sha256()
    for path in sorted(find_network(model, metric).iterdir()):
        if path.suffix not in (".json", ".safetensors", ".bin", ".txt", ".model"):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SMALL))
            if size > _SMALL:
                file.seek(-min(_SMALL, size - _SMALL), 2)
                digest.update(file.read())
    return digest.hexdigest()
