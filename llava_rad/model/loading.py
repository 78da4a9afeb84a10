"""One door to trained models: by name, folder or hub id."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from llava_rad.bundled import BUNDLED
from llava_rad.devices import pick_device, pick_dtype
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.extras import command, is_installed
from llava_rad.hub import download
from llava_rad.model.configuration import ReportModelConfig
from llava_rad.model.llm import Quantization
from llava_rad.model.report_model import ReportModel
from llava_rad.model.upload import MODEL_FILES

#: Stages of a training run, in their order; each leaves a model in a folder of its name.
STAGES = ("align", "finetune", "reinforce")

_log = logging.getLogger(__name__)


def model_folder(
    name: str, files: Sequence[str] = MODEL_FILES, revision: str | None = None
) -> Path:
    """The local folder of a model, downloaded from the hub if it has to be.

    Args:
        name: ``mini``, a folder, that of a training run (its last stage is taken), or a hub id.
        files: names and patterns of the files that are fetched.
        revision: branch, tag or commit of a hub repository.

    Raises:
        WeightsError: neither a bundled name, nor a folder, nor to be had from the hub.
        ConfigError: a revision of what is no hub repository.
    """
    folder = BUNDLED.get(name) or Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(
                f"revision '{revision}' was given for a local model",
                where=name,
                remedy="Leave revision out: only hub repositories have revisions",
            )
        return _of_run(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise WeightsError(
            "no such model folder",
            where=name,
            remedy=f"Give a folder, a hub id (OWNER/NAME), or one of: {', '.join(BUNDLED)}",
            kind="model_not_found",
        )
    return download(name, files, revision)


def _of_run(folder: Path) -> Path:
    """The folder itself or, where it is that of a training run, its last finished stage's."""
    if (folder / "config.json").exists() or not (folder / "config.yaml").is_file():
        return folder
    for stage in reversed(STAGES):
        if (folder / stage / "config.json").is_file():
            return folder / stage
    raise WeightsError(
        "this is the folder of a training run that has finished no stage",
        where=folder,
        remedy="Resume the run with the command that started it",
        kind="unfinished_run",
    )


def load(
    name: str = "mini",
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    quantize: Quantization | Literal["none"] | None = None,
    base_llm: str | None = None,
) -> ReportModel:
    """Load a model to write reports with; its LoRA is merged where the LLM is not quantised.

    Args:
        name: ``mini``, a folder, that of a training run, or a hub id.
        device: where to put it, see :func:`llava_rad.devices.pick_device`.
        dtype: of the weights, see :func:`llava_rad.devices.pick_dtype`.
        revision: branch, tag or commit of a hub repository.
        quantize: ``"4bit"`` or ``"8bit"`` for the LLM, ``"none"`` for plain weights; None is what
            its LoRA was trained on.
        base_llm: another place of the same base LLM.

    Raises:
        WeightsError: not found, incomplete or damaged.
        ModelError: the base LLM is another one.
        ConfigError: there is no such device on this machine, or no such number format.
    """
    place = pick_device(device)
    number = pick_dtype(dtype, place)
    folder = model_folder(name, revision=revision)
    if quantize is None:
        config = ReportModelConfig.load(folder)
        quantize = config.llm_quantize if config.llm_weights == "lora" else None
        if quantize is not None and not is_installed("quantize"):
            _log.warning(
                "%s: its LoRA was trained on a %s LLM, which needs bitsandbytes: %s",
                name,
                quantize,
                command("quantize"),
            )
            quantize = None
    return ReportModel.from_pretrained(
        folder,
        dtype=number,
        device=place,
        quantize=None if quantize == "none" else quantize,
        base_llm=base_llm,
        merged=quantize in (None, "none"),
    )
