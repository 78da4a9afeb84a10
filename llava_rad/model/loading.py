"""One door to trained models: by name, folder or hub id."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from llava_rad.errors import WeightsError
from llava_rad.hub import download
from llava_rad.model.configuration import ReportModelConfig
from llava_rad.model.llm import Quantization, has_bitsandbytes
from llava_rad.model.report_model import ReportModel
from llava_rad.model.tokenizer import TOKENIZER_FILES

#: Models that come with the package: name -> folder.
BUNDLED = {"mini": Path(__file__).parents[1] / "mini"}

#: What is read of a model's folder; nothing else is fetched from the hub.
FILES = (
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

_log = logging.getLogger(__name__)


def model_folder(name: str, files: Sequence[str] = FILES) -> Path:
    """The local folder of a model, downloaded from the hub if it has to be.

    Args:
        name: ``mini``, a folder, or a hub id.
        files: names and patterns of the files that are fetched.

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
    return download(name, files)


def load(
    name: str = "mini",
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    quantize: Quantization | Literal["none"] | None = None,
    base_llm: str | None = None,
) -> ReportModel:
    """Load a model to write reports with; its LoRA is merged where the LLM is not quantised.

    Args:
        name: ``mini``, a folder, or a hub id.
        dtype: of the weights.
        device: where to put it; None leaves it on the CPU.
        quantize: ``"4bit"`` or ``"8bit"`` for the LLM, ``"none"`` for plain weights; None is what
            its LoRA was trained on.
        base_llm: another place of the same base LLM.

    Raises:
        WeightsError: not found, incomplete or damaged.
        ModelError: the base LLM is another one.
    """
    folder = model_folder(name)
    if quantize is None:
        config = ReportModelConfig.load(folder)
        quantize = config.llm_quantize if config.llm_weights == "lora" else None
        if quantize is not None and not has_bitsandbytes():
            _log.warning(
                "%s: its LoRA was trained on a %s LLM, which needs bitsandbytes: pip install "
                "bitsandbytes",
                name,
                quantize,
            )
            quantize = None
    model = ReportModel.from_pretrained(
        folder,
        dtype=dtype,
        device=device,
        quantize=None if quantize == "none" else quantize,
        base_llm=base_llm,
    )
    return model if model.quantize else model.merge()
