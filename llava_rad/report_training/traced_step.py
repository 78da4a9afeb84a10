"""A training step of an LLM without its weights: what it computes and what it keeps.

The LLM is built with one and with two layers of tensors without storage (torch's FakeTensor), and
a step is run on each: its operations and what it keeps for the backward pass are counted, and the
difference is what every further layer adds. Fused attention is not run but counted by formula;
attention that is written out is run as transformers writes it.
"""

import functools
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoModelForCausalLM

from llava_rad.model import LoraSettings
from llava_rad.model.lora import attach_lora

_FUSED = "llava_rad_traced"


@dataclass(frozen=True)
class StepShape:
    """What a traced step is run on.

    Attributes:
        batch: samples.
        length: tokens of each.
        logits: positions of each whose logits are computed.
        lora: of the LLM, or None.
        whole: every weight of the LLM is trained.
        bf16: computed in bfloat16.
        quantised: linear layers are bitsandbytes'.
        fused: attention keeps no square of the length.
    """

    batch: int
    length: int
    logits: int
    lora: LoraSettings | None
    whole: bool
    bf16: bool
    quantised: bool
    fused: bool


@dataclass(frozen=True)
class TracedStep:
    """A step of an LLM, all layers together.

    Attributes:
        parameters: of the LLM.
        trained: of these, those with a gradient.
        layer: parameters of one layer.
        layer_flops: operations of the linear layers, of all samples.
        attention_flops: of attention's matrix products.
        head_flops: of the vocabulary projection.
        layer_kept: bytes that one layer keeps for the backward pass.
        other_kept: bytes that is kept outside the layers.
        square_bytes: read and written by what attention does on squares of the length, beside
            matrix products; 0 where it is fused.
    """

    parameters: int
    trained: int
    layer: int
    layer_flops: float
    attention_flops: float
    head_flops: float
    layer_kept: float
    other_kept: float
    square_bytes: float


@dataclass(frozen=True)
class _Counts:
    parameters: int
    trained: int
    flops: float
    kept: float
    square_bytes: float


def trace_step(llm: Any, shape: StepShape) -> TracedStep:
    """Count a training step.

    Args:
        llm: transformers' configuration of it.
        shape: of the step.
    """
    text = json.dumps(llm.to_dict(), sort_keys=True, default=str)
    kind: Any = type(llm)
    return _trace_step(text, kind, shape)


@functools.lru_cache(maxsize=64)
def _trace_step(text: str, kind: Any, shape: StepShape) -> TracedStep:
    values = json.loads(text)
    layers = values["num_hidden_layers"]
    # Lists of a value a layer would contradict the new depth.
    for name in ("quantization_config", "layer_types"):
        values.pop(name, None)
    one, two = (_count(values, kind, depth, shape) for depth in (1, 2))
    layer = two.parameters - one.parameters
    trained = two.trained - one.trained
    layer_flops = (two.flops - one.flops) * layers
    head_flops = 2 * one.flops - two.flops
    # The forward pass takes 2 products of 2 operations, half of them ahead of the causal line and
    # skipped; the backward pass 5, as it computes the scores again.
    width = values["num_attention_heads"] * _head_width(values)
    square = shape.batch * shape.length**2 * width * layers
    if shape.fused:
        attention_flops = 7.0 * square
    else:
        # Counted with the rest: 2 products forward, 4 backward, none skipped.
        attention_flops = 12.0 * square
        layer_flops -= attention_flops
    return TracedStep(
        parameters=one.parameters + (layers - 1) * layer,
        trained=one.trained + (layers - 1) * trained,
        layer=layer,
        layer_flops=layer_flops,
        attention_flops=attention_flops,
        head_flops=head_flops,
        layer_kept=two.kept - one.kept,
        other_kept=2 * one.kept - two.kept,
        square_bytes=(two.square_bytes - one.square_bytes) * layers,
    )


def _head_width(values: dict[str, Any]) -> int:
    return values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]


def _count(values: dict[str, Any], kind: Any, layers: int, shape: StepShape) -> _Counts:
    """Run a step of an LLM of so many layers."""
    config = kind.from_dict({**values, "num_hidden_layers": layers})
    dtype = torch.bfloat16 if shape.bf16 and not shape.whole else torch.float32
    AttentionInterface.register(_FUSED, _fused_attention)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            attn_implementation=_FUSED if shape.fused else "eager",
            trust_remote_code=False,
        )
        model.requires_grad_(shape.whole)
        if shape.quantised:
            model.quantization_method = "bitsandbytes"  # with it, peft's own layers are used
        if shape.lora is not None:
            model = attach_lora(model, shape.lora)
    with FakeTensorMode():
        _as_on_a_cpu(model.train())
        for module in model.modules():
            if type(module) is nn.Dropout and module.p:
                module.__class__ = _GpuDropout
        embeds = torch.empty(
            shape.batch, shape.length, config.hidden_size, dtype=dtype, requires_grad=True
        )
        kept = _Kept(model)
        flops = FlopCounterMode(display=False)
        squares = _SquareTraffic(shape.batch * shape.length**2 * config.num_attention_heads)
        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor), flops, squares:
            with torch.autocast("cpu", torch.bfloat16, enabled=shape.bf16):
                logits = model(
                    inputs_embeds=embeds,
                    attention_mask=torch.zeros(1, 1, shape.length, shape.length, dtype=dtype),
                    use_cache=False,
                    logits_to_keep=torch.arange(shape.logits),
                ).logits
            targets = torch.empty(shape.batch * shape.logits, dtype=torch.long)
            nn.functional.cross_entropy(logits.float().flatten(0, 1), targets).backward()
        return _Counts(
            parameters=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            flops=flops.get_total_flops(),
            kept=kept.bytes,
            square_bytes=squares.bytes,
        )


class _GpuDropout(nn.Dropout):
    """Keeps a byte for each number, as on a GPU; on a CPU torch keeps a number."""

    def forward(self, input: Tensor) -> Tensor:
        dropped: Tensor = torch.native_dropout(input, self.p, self.training)[0]
        return dropped


def _as_on_a_cpu(model: nn.Module) -> None:
    """Give parameters and buffers a device, which autocast asks for; they stay without storage."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = (
                        nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                    )
                tensors[name] = made[id(tensor)]


class _Kept:
    """Saved-tensor hook that adds up each storage once, those of parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in model.parameters()}
        self._storages: dict[int, Any] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._storages[storage._cdata] = storage  # held, so that no other takes its number
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


class _SquareTraffic(TorchDispatchMode):
    """Bytes that operations other than matrix products read and write in tensors of a size."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self._elements = elements
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        views = func.is_view or name == "aten::_unsafe_view"
        if views or "mm" in name or not isinstance(out, Tensor):
            return out
        for tensor in (*args, out):
            if isinstance(tensor, Tensor) and tensor.numel() == self._elements:
                self.bytes += tensor.nbytes
        return out


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused attention keeps: its inputs and its output, no square of the length."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _fused_attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **_options: Any
) -> tuple[Tensor, None]:
    out: Tensor = _FusedAttention.apply(query, key, value)
    return out.transpose(1, 2).contiguous(), None


def is_fused(attention: str | None) -> bool:
    """Whether an attention implementation of a configuration keeps no square of the length."""
    return attention is None or attention.startswith(("sdpa", "flash"))
