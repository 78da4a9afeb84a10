"""Parts of an LLM's layers that keep less for the backward pass and pass over memory less often.

The layers are transformers' own; within them the norms and the gated units are put in other
words, for every family that computes what Llama does (Mistral, Phi-3, Qwen and many more). A part
is known by its shape and proved by its output; what differs, as Gemma's norm does, is left alone.
Parameters, their names and the results stay the same, the last up to rounding.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from llava_rad.kernels.lora_linear import LoraLinear
from llava_rad.kernels.rms_norm import RMSNorm
from llava_rad.kernels.swiglu import swiglu


def make_lean(llm: nn.Module) -> None:
    """Replace the parts of ``llm`` that are known, in place; before a LoRA is attached.

    Args:
        llm: a causal LM of transformers, in evaluation mode, with its weights.
    """
    made: dict[type, Callable[[Any], nn.Module] | None] = {}
    for parent in list(llm.modules()):
        for name, part in list(parent.named_children()):
            kind = type(part)
            if kind not in made:
                made[kind] = _lean_kind(part)
            lean = made[kind]
            if lean is not None:
                setattr(parent, name, lean(part).train(part.training))


def _lean_kind(part: Any) -> Callable[[Any], nn.Module] | None:
    """What makes the lean one of a part, if there is one and its output is the same."""
    lean: Callable[[Any], nn.Module]
    own, children = ({name for name, _ in found} for found in _parameters_and_children(part))
    if own == {"weight"} and not children and hasattr(part, "variance_epsilon"):
        lean, weight, width = _norm, part.weight, len(part.weight)
    elif not own and children == {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        lean, weight, width = _GatedUnit, part.down_proj.weight, part.down_proj.out_features
        if not isinstance(part.act_fn, nn.SiLU | SiLUActivation):
            return None
    elif not own and children == {"gate_up_proj", "down_proj", "activation_fn"}:
        lean, weight, width = _JoinedUnit, part.down_proj.weight, part.down_proj.out_features
        if not isinstance(part.activation_fn, nn.SiLU | SiLUActivation):
            return None
    else:
        return None
    if weight.is_meta:  # the weights are with another process: any will do
        part = copy.deepcopy(part).to_empty(device="cpu")
        for parameter in part.parameters():
            nn.init.normal_(parameter)
        weight = weight.new_empty(0, device="cpu")
    # Quantised weights are integers.
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    probe = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    probe = probe.to(weight.device, dtype)
    with torch.no_grad():
        expected, found = part(probe).float(), lean(part)(probe).float()
    same = (found - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()
    return lean if same else None


def _parameters_and_children(part: nn.Module) -> tuple[Any, Any]:
    return part.named_parameters(recurse=False), part.named_children()


def _norm(part: Any) -> RMSNorm:
    return RMSNorm(part.weight, part.variance_epsilon)


class _GatedUnit(nn.Module):
    """Llama's MLP: down_proj(silu(gate_proj(x)) * up_proj(x))."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = part.gate_proj, part.up_proj
        self.down_proj = part.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """The unit of ``x`` [..., width], of the same shape."""
        return _down(self.down_proj, self.gate_proj(x), self.up_proj(x))


class _JoinedUnit(nn.Module):
    """Phi-3's MLP: the same with one layer for gate and up."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = part.gate_up_proj, part.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """The unit of ``x`` [..., width], of the same shape."""
        return _down(self.down_proj, *self.gate_up_proj(x).chunk(2, dim=-1))


def _down(layer: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    out: Tensor
    if isinstance(layer, LoraLinear):
        out = layer.gated(gate, up)
    else:
        out = layer(swiglu(gate, up))
    return out
