"""The one door to the layers that a training computes with.

``plain`` is what transformers and peft have. ``liger`` puts Liger Kernel's fused Triton layers in
their place (RMSNorm and SwiGLU of the LLM, LayerNorm of the pretraining backbone), for GPUs.
``cpu`` are the hand-written layers of this folder: attention, RMSNorm, gated units and LoRA
products of the LLM, the whole layer of the backbone. On a CPU a step waits for memory, and they
pass over it less often. ``auto`` takes ``cpu`` on a CPU, ``liger`` on a GPU where it is installed,
else ``plain``. The loss over a vocabulary (:mod:`llava_rad.kernels.token_loss`) goes by the device
it is on and is the same everywhere.

When to delete ``cpu``: when ``benchmarks/report_training.py`` and ``benchmarks/pretraining.py``
show no gain over ``plain`` on a CPU any more, be it that torch's fused attention has a fast
backward pass there or that ``torch.compile`` fuses what these layers fuse by hand. Then the files
``attention``, ``lean_layer``, ``lean_llm``, ``lora_linear``, ``rms_norm``, ``row_blocks`` and
``swiglu`` go with their tests, and the branches that name ``cpu`` in this one; nothing else
imports them.
"""

import contextlib
import functools
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from llava_rad.errors import ConfigError
from llava_rad.kernels.vit_layer import VitLayer, has_its_parts
from llava_rad.kernels.whole_layer import left_whole

#: What may be asked for.
Kernels = Literal["auto", "plain", "liger", "cpu"]
#: What it comes to on a device.
Chosen = Literal["plain", "liger", "cpu"]

_log = logging.getLogger(__name__)


def choose(kernels: Kernels, device: torch.device) -> Chosen:
    """The kernels that a training on a device computes with.

    Raises:
        ConfigError: they do not run there, or are not installed.
    """
    if kernels == "auto":
        if device.type == "cpu":
            return "cpu"
        return "liger" if device.type == "cuda" and has_liger() else "plain"
    if kernels == "liger" and (device.type == "cpu" or not has_liger()):
        missing = "they run on a GPU" if has_liger() else "the package liger-kernel is not there"
        raise ConfigError(
            f"Liger's kernels cannot be used: {missing}",
            where="kernels",
            remedy="Set kernels=auto, or install liger-kernel on a machine with a GPU",
            kind="no_liger",
        )
    if kernels == "cpu" and device.type != "cpu":
        raise ConfigError(
            f"the layers for a CPU are asked for on {device.type}",
            where="kernels",
            remedy="Set kernels=auto",
            kind="no_cpu",
        )
    return kernels


def has_liger() -> bool:
    """Whether Liger Kernel is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


def attention(chosen: Chosen) -> str | None:
    """The name of the attention that goes with them; None leaves the LLM its own."""
    if chosen != "cpu":
        return None
    from llava_rad.kernels.attention import CPU_ATTENTION

    return CPU_ATTENTION


def apply_to_llm(llm: Any, chosen: Chosen) -> None:
    """Exchange layers of a loaded LLM in place, before a LoRA is attached.

    A family that Liger does not know keeps its own layers, which is said once.

    Args:
        llm: a causal LM of transformers with its weights, in evaluation mode.
        chosen: from :func:`choose`.
    """
    if chosen == "cpu":
        from llava_rad.kernels.lean_llm import make_lean

        make_lean(llm)
    elif chosen == "liger":
        _apply_liger(llm)


def lora_layers(chosen: Chosen) -> dict[type[nn.Module], type[nn.Module]]:
    """Layers with LoRA to use in place of peft's, by the layer that gets the LoRA."""
    if chosen == "plain":
        return {}
    from llava_rad.kernels.lora_linear import LoraLinear

    return {nn.Linear: LoraLinear}


def backbone_layer(
    layer: nn.Module, chosen: Chosen, drop_path: float, is_last: bool, compiled: bool
) -> nn.Module:
    """A layer of the pretraining backbone in place of transformers'.

    A layer that the one for a CPU does not know gets the plain one, and one that this does not know
    either stays transformers' own, uncompiled; both are said once.

    Args:
        layer: of transformers, as for :class:`VitLayer`.
        chosen: from :func:`choose`.
        drop_path: as for :class:`VitLayer`.
        is_last: as for :class:`VitLayer`.
        compiled: compile its branches, except of the one for a CPU.

    Raises:
        ConfigError: ``drop_path`` is asked of a layer that is not known.
    """
    if not has_its_parts(layer):
        _say_unknown(type(layer).__name__, "the pretraining")
        return left_whole(layer, drop_path, is_last)
    if chosen == "cpu":
        from llava_rad.kernels.lean_layer import LeanLayer, can_be_lean

        if can_be_lean(layer):
            return LeanLayer(layer, drop_path, is_last)
        _say_unknown(type(layer).__name__, "the layers for a CPU")
    plain = VitLayer(layer, drop_path, is_last)
    plain.compiled = compiled
    if chosen == "liger":
        from llava_rad.kernels.liger_norm import LigerNorm

        plain.norm1, plain.norm2 = LigerNorm(plain.norm1), LigerNorm(plain.norm2)
    return plain


def compile_layers(layers: list[nn.Module]) -> None:
    """Compile layers one by one, in place; those of one kind share their code.

    Lengths differ from batch to batch, so code is made for any length.
    """
    for layer in layers:
        layer.compile(dynamic=True)


def _apply_liger(llm: Any) -> None:
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(llm.config.model_type)
    if apply is None:
        _say_unknown(llm.config.model_type, "Liger Kernel")
        return
    # Rotary embeddings would be exchanged for every model of the family in this process, and
    # either cross-entropy would compute the logits of all tokens: the loss is this project's own.
    wanted = {"rope": False, "rms_norm": True, "swiglu": True, "geglu": True}
    wanted |= {"cross_entropy": False, "fused_linear_cross_entropy": False}
    known = inspect.signature(apply).parameters
    with _left_as_it_was(sys.modules[type(llm).__module__]):
        apply(model=llm, **{name: value for name, value in wanted.items() if name in known})


@contextlib.contextmanager
def _left_as_it_was(module: Any) -> Iterator[None]:
    """Undo what is done to a module's names: Liger exchanges classes for all models to come."""
    names = dict(vars(module))
    try:
        yield
    finally:
        for name, value in names.items():
            if vars(module).get(name) is not value:
                setattr(module, name, value)


@functools.cache
def _say_unknown(kind: str, who: str) -> None:
    _log.warning("%s: not known to %s, so its layers are plain", kind, who)
