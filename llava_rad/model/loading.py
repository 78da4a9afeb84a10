"""One door to trained models: by name, folder or hub id."""

from collections.abc import Sequence
from pathlib import Path

import torch

from llava_rad.errors import WeightsError
from llava_rad.model.llm import Quantization
from llava_rad.model.report_model import ReportModel

#: Models that come with the package: name -> folder.
BUNDLED = {"mini": Path(__file__).parents[1] / "mini"}


def model_folder(name: str, files: Sequence[str] | None = None) -> Path:
    """The local folder of a model, downloaded from the hub if it has to be.

    Args:
        name: ``mini``, a folder, or a hub id.
        files: names and patterns of the files that are fetched; None fetches all.

    Raises:
        WeightsError: neither a bundled name, nor a folder, nor to be had from the hub.
    """
    if name in BUNDLED:
        return BUNDLED[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise WeightsError(
            "no such model folder",
            where=name,
            remedy=f"Give a folder, a hub id (OWNER/NAME), or one of: {', '.join(BUNDLED)}",
            kind="model_not_found",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=None if files is None else list(files)))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise WeightsError(
            "no such folder here, and the hub did not give it",
            where=name,
            remedy=f"Check the name, or download it once with: hf download {name}",
            kind="model_not_found",
        ) from error


def load(
    name: str = "mini",
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    quantize: Quantization | None = None,
    base_llm: str | None = None,
) -> ReportModel:
    """Load a model to write reports with; its LoRA is merged where the LLM is not quantised.

    Args:
        name: ``mini``, a folder, or a hub id.
        dtype: of the weights.
        device: where to put it; None leaves it on the CPU.
        quantize: ``"4bit"`` or ``"8bit"`` for the LLM.
        base_llm: another place of the same base LLM.

    Raises:
        WeightsError: not found, incomplete or damaged.
        ModelError: the base LLM is another one.
    """
    model = ReportModel.from_pretrained(
        model_folder(name), dtype=dtype, device=device, quantize=quantize, base_llm=base_llm
    )
    return model if quantize else model.merge()
