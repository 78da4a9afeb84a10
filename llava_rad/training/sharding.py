"""The report model split over processes with FSDP2.

Weights, gradients and what the optimiser keeps are split; the decoder layers of the LLM are
gathered one at a time. The frozen encoder stays whole in every process.
"""

from typing import Any

from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from llava_rad.errors import TrainingError
from llava_rad.model import ReportModel


def shard(model: ReportModel, processes: int) -> None:
    """Split a model in place; afterwards its parameters are DTensors.

    Args:
        model: whole, on its device, the same in every process.
        processes: all that train together.

    Raises:
        TrainingError: the LLM does not say what its layers are.
    """
    mesh = init_device_mesh(model.device.type, (processes,))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=set(model.encoder.parameters()))


def decoder_layers(model: ReportModel) -> list[nn.Module]:
    """The layers of the LLM that transformers names as not to be divided."""
    llm: Any = model.llm.get_base_model() if isinstance(model.llm, PeftModel) else model.llm
    names = set(getattr(llm, "_no_split_modules", None) or ())
    layers = [module for module in llm.modules() if type(module).__name__ in names]
    if not layers:
        raise TrainingError(
            f"the layers of {type(llm).__name__} are not known",
            where="sharding",
            remedy="Use sharding=none",
            kind="unknown_layers",
        )
    return layers
