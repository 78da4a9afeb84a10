"""DeepSpeed's ZeRO: stage 2 splits gradients and optimiser, stage 3 the weights too.

DeepSpeed keeps what it splits in flat buffers of its own. Here a model goes in, and whole tensors
by name come out, so that checkpoints are the same however a run was started. It computes as the
other ways do: under autocast, with trained weights in float32 and the frozen LLM as it was loaded.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llava_rad.model import ReportModel
from llava_rad.report_training.config import StageConfig
from llava_rad.runs.parts import Gathered


def prepare_zero(
    model: ReportModel,
    optimiser: torch.optim.Optimizer,
    accelerator: Accelerator,
    settings: StageConfig,
    *,
    bf16: bool,
) -> tuple[Any, Any]:
    """Hand model and optimiser to DeepSpeed.

    DeepSpeed accumulates, clips and steps by itself, so it is told the stage's own numbers.

    Args:
        model: whole, the same in every process. Stage 3 splits its frozen weights as well; the
            encoder stays whole in every process and in its own precision.
        optimiser: on the model's trained parameters.
        accelerator: started with DeepSpeed.
        settings: of the stage.
        bf16: compute in bfloat16.

    Returns:
        The engine, which is called like the model, and its optimiser.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    encoder = model.encoder
    del model.encoder
    object.__setattr__(model, "encoder", encoder)  # reached as before, but no module of the model
    accelerator.deepspeed_plugin.deepspeed_config |= {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulate(accelerator.num_processes),
        "gradient_clipping": settings.clip,
        # No module's gradients are rounded to bfloat16 on their way between the processes.
        "torch_autocast": {
            "enabled": bf16,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }
    return accelerator.prepare(model, optimiser)


def is_zero(parameter: Tensor) -> bool:
    """Whether DeepSpeed holds a parameter, or the numbers that belong to it, in parts."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def zero_weight(parameter: Any) -> Gathered:
    """A trained parameter, to be gathered from all processes."""
    from deepspeed.utils import safe_get_full_fp32_param

    return Gathered(_shape(parameter), torch.float32, lambda: safe_get_full_fp32_param(parameter))


def zero_state(optimiser: Any, parameter: nn.Parameter) -> dict[str, Tensor | Gathered]:
    """What the optimiser keeps for a trained parameter, to be gathered from all processes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    kept = optimiser.optimizer.state.get(_flat_partitions(optimiser)[0], {})
    return {
        key: value
        if value.ndim == 0
        else Gathered(
            _shape(parameter),
            value.dtype,
            functools.partial(safe_get_full_optimizer_state, parameter, key),
        )
        for key, value in kept.items()
    }


def _shape(parameter: Any) -> Sequence[int]:
    """Of the whole parameter; stage 3 leaves an empty one in its place."""
    shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def restore_zero_state(
    parameters: Mapping[str, nn.Parameter], optimiser: Any, state: Mapping[str, Tensor]
) -> None:
    """Inverse of :func:`zero_state`, before the first step.

    Args:
        parameters: by name.
        optimiser: DeepSpeed's.
        state: whole tensors, named ``PARAMETER|KEY``; one is held at a time.
    """
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    # One state for each flat partition: the step count is the same for all parameters in it.
    names = {full_name.rsplit("|", 1)[1]: full_name for full_name in state}
    kinds = {key: state[full_name] for key, full_name in names.items()}
    for flat in _flat_partitions(optimiser):
        optimiser.optimizer.state[flat] = {
            key: value.clone() if value.ndim == 0 else torch.zeros_like(flat)
            for key, value in kinds.items()
        }
    if hasattr(optimiser, "single_partition_of_fp32_groups"):
        # Lets parameters find their part of the state; DeepSpeed does it after its first step.
        optimiser._lazy_init_hp_params_optimizer_state()
    for full_name, value in state.items():
        name, key = full_name.rsplit("|", 1)
        parameter = parameters[name]
        if value.ndim == 0:
            continue
        value = value.to(parameter.device)
        if hasattr(parameter, "ds_id"):
            safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)
        else:
            safe_set_full_optimizer_state(parameter, value, key)


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds; the last one is padded with zeros.

    ``safe_set_full_optimizer_state`` of stage 3 does not pad.
    """
    length = parameter.ds_tensor.numel()
    part = value.flatten()[length * torch.distributed.get_rank() :][:length]
    return nn.functional.pad(part, (0, length - part.numel()))


def _flat_partitions(optimiser: Any) -> list[Tensor]:
    """This process's flat float32 weights, which the optimiser inside DeepSpeed's steps on."""
    stage_3 = getattr(optimiser, "fp32_partitioned_groups_flat", None)
    return stage_3 if stage_3 is not None else optimiser.single_partition_of_fp32_groups
