"""The report model and its optimiser, spread over the processes of a run.

``none`` holds both whole in each process (DDP). ``fsdp2`` splits weights, gradients and what the
optimiser keeps, and gathers the decoder layers of the LLM one at a time. ``zero2`` and ``zero3``
are DeepSpeed's. The frozen encoder stays whole in every process.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from llava_rad.errors import TrainingError
from llava_rad.model import ReportModel
from llava_rad.model.lora import without_lora
from llava_rad.report_training.config import Sharding, StageConfig
from llava_rad.report_training.state import trained_parameters
from llava_rad.report_training.zero import prepare_zero
from llava_rad.runs.receiving import receive


def distribute(
    model: ReportModel,
    settings: StageConfig,
    accelerator: Accelerator,
    sharding: Sharding,
    *,
    bf16: bool,
) -> tuple[Any, Any]:
    """Make the optimiser (AdamW) of a model that is split or is to be spread over the processes.

    Args:
        model: split by :func:`shard`, or whole, on its device, the same in every process.
        settings: of the stage.
        accelerator: that all processes share.
        sharding: how.
        bf16: compute in bfloat16.

    Returns:
        What to call in place of the model, and Accelerate's optimiser.
    """
    optimiser = torch.optim.AdamW(
        trained_parameters(model),
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    if sharding in ("zero2", "zero3"):
        return prepare_zero(model, optimiser, accelerator, settings, bf16=bf16)
    prepared = accelerator.prepare(optimiser)
    return (model if sharding == "fsdp2" else accelerator.prepare(model)), prepared


def shard(model: ReportModel, device: torch.device, processes: int, *, bf16: bool) -> None:
    """Split a model with FSDP2 in place; afterwards its parameters are DTensors.

    Layer by layer the main process's values go to all, and of each every process keeps its part:
    no device holds more than its part and one layer.

    Args:
        model: whole in the main process; in the others adapter and LLM may be on the meta device.
        device: of this process.
        processes: all that train together.
        bf16: gather weights in bfloat16, which is half of what float32 would send; gradients are
            added up in float32.

    Raises:
        TrainingError: the LLM does not say what its layers are.
    """
    mesh = init_device_mesh(device.type, (processes,))
    # Inputs stay as they are: the encoder takes pixels in its own precision, and autocast decides
    # for each operation of the LLM.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    layers = decoder_layers(model, "sharding", "Use sharding=zero3, or sharding=none")
    for layer in layers:
        receive(layer, device)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    receive(model, device, leave=[model.encoder, *layers])
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(model.encoder.parameters()))


def decoder_layers(model: ReportModel, where: str, remedy: str) -> list[nn.Module]:
    """The layers of the LLM that transformers names as not to be divided.

    Args:
        model: whole.
        where: the setting that needs them, for an error.
        remedy: what to set instead.

    Raises:
        TrainingError: the LLM does not say what its layers are.
    """
    llm = without_lora(model.llm)
    names = set(getattr(llm, "_no_split_modules", None) or ())
    layers = [module for module in llm.modules() if type(module).__name__ in names]
    if not layers:
        raise TrainingError(
            f"the layers of {type(llm).__name__} are not known",
            where=where,
            remedy=remedy,
            kind="unknown_layers",
        )
    return layers
