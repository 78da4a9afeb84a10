"""What a run will take, before anything is rented: parameters, tokens, memory, operations, hours.

No weight is loaded. The LLM is built without storage (torch's meta device) with one and with two
layers, and a training step is traced on each: its operations and what it keeps for the backward
pass are counted, and the difference is what every further layer adds.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoModelForCausalLM

from llava_rad.encoders.preprocessing import Preprocessing
from llava_rad.encoders.registry import ENCODERS
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.model import Adapter
from llava_rad.model.llm import llm_config
from llava_rad.model.lora import attach_lora
from llava_rad.training.config import ReportTrainingConfig

_ATTENTION = "llava_rad_traced"


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker's data sheet states it.

    Attributes:
        memory: in GB.
        flops: of dense bfloat16 matrix products, a second.
    """

    memory: float
    flops: float


GPUS: dict[str, Gpu] = {
    "rtx-4090": Gpu(24, 165e12),
    "a10g": Gpu(24, 70e12),
    "l40s": Gpu(48, 362e12),
    "a100-40gb": Gpu(40, 312e12),
    "a100-80gb": Gpu(80, 312e12),
    "h100": Gpu(80, 989e12),
    "h200": Gpu(141, 989e12),
}


@dataclass(frozen=True)
class EncoderShape:
    """An encoder without its weights.

    Attributes:
        dim: width of its patch tokens.
        grid: rows and columns of an image's patch tokens.
        parameters: how many.
        layers: transformer blocks.
    """

    dim: int
    grid: tuple[int, int]
    parameters: int
    layers: int

    @property
    def tokens(self) -> int:
        """Patch tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def flops(self) -> float:
        """Operations to encode an image: two a parameter and token, and those of attention."""
        tokens = self.tokens + 1
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * tokens**2 * self.dim


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes.

    Attributes:
        stage: ``align`` or ``finetune``.
        trained: parameters with a gradient.
        frozen: parameters without, those of the encoder included.
        tokens: of a sample, image, prompt and report together.
        image_tokens: of these, those of images.
        memory: peak on each GPU in GB, by what takes it.
        flops: operations of a sample, forward and backward.
        steps: optimiser steps.
        hours: of the stage.
    """

    stage: str
    trained: int
    frozen: int
    tokens: int
    image_tokens: int
    memory: dict[str, float]
    flops: float
    steps: int
    hours: float

    @property
    def peak_gb(self) -> float:
        """Peak memory of each GPU."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        stages: in their order.
        gpu: name in :data:`GPUS`.
        processes: GPUs.
        studies: learnt from.
        cache_gb: patch tokens on disk; 0 without the cache.
        encode_hours: to compute them once.
        warnings: what will not work as it stands, each ``kind: text``.
    """

    stages: list[StagePlan]
    gpu: str
    processes: int
    studies: int
    cache_gb: float
    encode_hours: float
    warnings: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """All stages and the encoding."""
        return self.encode_hours + sum(stage.hours for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Lines for the terminal."""
        lines = [f"{self.studies:,} studies on {self.processes} x {self.gpu}"]
        for stage in self.stages:
            parts = ", ".join(f"{name} {gb:.1f}" for name, gb in stage.memory.items())
            lines += [
                "",
                stage.stage,
                f"  trained        {stage.trained:,} parameters",
                f"  frozen         {stage.frozen:,}",
                f"  sample         {stage.tokens:,} tokens, {stage.image_tokens:,} of images",
                f"  peak memory    {stage.peak_gb:.1f} GB a GPU ({parts})",
                f"  operations     {stage.flops / 1e12:.2f} TFLOP a sample",
                f"  time           {stage.hours:.1f} h for {stage.steps:,} steps",
            ]
        lines += ["", f"whole run        {self.hours:.1f} h"]
        if self.cache_gb:
            lines.append(
                f"patch tokens     {self.cache_gb:.1f} GB on disk, {self.encode_hours:.1f} h once"
            )
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


@dataclass(frozen=True)
class _Traced:
    """A training step of an LLM: parameters, operations, bytes kept for the backward pass."""

    parameters: int
    trained: int
    flops: float
    kept: float


def plan(
    config: ReportTrainingConfig,
    *,
    studies: int,
    gpu: str = "a100-80gb",
    processes: int | None = None,
    images: float = 1.0,
    prompt_tokens: int = 80,
    report_tokens: int = 90,
    utilisation: float = 0.4,
) -> Plan:
    """Estimate a run from its settings.

    Parameters and tokens are exact, operations and kept activations those of a traced step. Peak
    memory leaves out the CUDA context and the allocator's waste; hours rest on ``utilisation``.

    Args:
        config: of the run.
        studies: learnt from in an epoch.
        gpu: name in :data:`GPUS`.
        processes: GPUs; None takes the configuration's, else 1.
        images: of a study, on average.
        prompt_tokens: text of a prompt.
        report_tokens: of a report, its end included.
        utilisation: share of the GPU's rated operations that are reached.

    Raises:
        ConfigError: an unknown GPU, or a batch that does not divide.
        WeightsError: a model's configuration cannot be found.
    """
    if gpu not in GPUS:
        raise ConfigError(f"unknown GPU '{gpu}'", where="gpu", remedy=f"Use {', '.join(GPUS)}")
    count = processes or config.processes or 1
    rated = GPUS[gpu].flops * utilisation * count
    encoder = encoder_shape(config.encoder, config.encoder_revision)
    image_tokens = round(images * config.adapter.tokens(encoder.grid))
    length = image_tokens + prompt_tokens + report_tokens
    warnings = []
    if length > config.data.max_length:
        warnings.append(
            f"max_length: a sample has {length} tokens, data.max_length is "
            f"{config.data.max_length}: reports are cut or left out"
        )
    cached = config.data.cache_features
    stages = []
    for stage in config.stages:
        found = _plan_stage(
            config,
            stage,
            encoder,
            count,
            images,
            image_tokens,
            length,
            report_tokens,
            studies,
            rated,
        )
        stages.append(found)
        if found.peak_gb > 0.9 * GPUS[gpu].memory:
            warnings.append(
                f"memory: {stage} needs about {found.peak_gb:.0f} GB, a {gpu} has "
                f"{GPUS[gpu].memory:.0f}: lower micro_batch, pool the patch tokens, set "
                "gradient_checkpointing, quantize or sharding=fsdp2"
            )
    shown = studies * images
    return Plan(
        stages,
        gpu,
        count,
        studies,
        cache_gb=shown * encoder.tokens * encoder.dim * 2 / 1e9 if cached else 0.0,
        encode_hours=shown * encoder.flops / rated / 3600 if cached else 0.0,
        warnings=warnings,
    )


def _plan_stage(
    config: ReportTrainingConfig,
    stage: str,
    encoder: EncoderShape,
    processes: int,
    images: float,
    image_tokens: int,
    length: int,
    report_tokens: int,
    studies: int,
    rated: float,
) -> StagePlan:
    settings = config.of(stage)
    settings.accumulate(processes)
    batch = settings.micro_batch
    llm = llm_config(config.llm, config.llm_revision)
    whole = stage == "finetune" and config.lora is None
    lora = stage == "finetune" and not whole
    layers = llm.num_hidden_layers

    def traced(depth: int) -> _Traced:
        return _trace_llm(config, llm, depth, lora, whole, batch, length, report_tokens)

    one, two = traced(1), traced(2)
    parameters = _extended(one.parameters, two.parameters, layers)
    trained_llm = _extended(one.trained, two.trained, layers)
    # Frozen weights are kept in the dtype of the computation, trained ones in float32.
    computed = 4 if config.precision == "fp32" else 2
    block_input = batch * length * llm.hidden_size * computed
    kept = _extended(one.kept, two.kept, layers)
    if config.gradient_checkpointing:
        # Each layer keeps its input, and one at a time is computed again.
        kept = one.kept + layers * block_input
    with torch.device("meta"):
        adapter = sum(
            p.numel() for p in Adapter(config.adapter, encoder.dim, llm.hidden_size).parameters()
        )
    trained = trained_llm + adapter
    split = processes if config.sharding == "fsdp2" else 1

    frozen_llm = parameters - trained_llm
    weights = frozen_llm * computed
    if config.quantize:
        weights = _quantised_bytes(llm, config.quantize, frozen_llm)
    # Gradient and AdamW's two moments, each in float32.
    memory = {
        "frozen weights": weights / split,
        "trained weights": trained * 4 / split,
        "gradients and optimiser": trained * 12 / split,
        "encoder": encoder.parameters * 4,
        "activations": kept,
    }
    if split > 1:
        # The layer at work and the next one are whole.
        memory["gathered layers"] = 2.0 * (two.parameters - one.parameters) * (4 if whole else 2)
    flops = _extended(one.flops, two.flops, layers) / batch
    flops += layers * _attention_flops(llm, length)
    if config.gradient_checkpointing:
        forward = layers * ((two.parameters - one.parameters) * 2.0 * length)
        flops += forward + layers * _attention_flops(llm, length) / 3
    flops += 6.0 * adapter * image_tokens
    if not config.data.cache_features:
        flops += images * encoder.flops
    steps = max(1, -(-int(studies * settings.epochs) // settings.batch_size))
    return StagePlan(
        stage,
        trained=trained,
        frozen=frozen_llm + encoder.parameters,
        tokens=length,
        image_tokens=image_tokens,
        memory={name: value / 1e9 for name, value in memory.items()},
        flops=flops,
        steps=steps,
        hours=flops * studies * settings.epochs / rated / 3600,
    )


def _extended(one: float, two: float, layers: int) -> Any:
    """Value at ``layers`` layers of what grows by the same amount with each."""
    return one + (layers - 1) * (two - one)


def _attention_flops(llm: Any, length: int) -> float:
    """Attention's two matrix products and their backward pass, in one layer and one sample.

    The causal half is not subtracted.
    """
    return 12.0 * length**2 * llm.hidden_size


def _quantised_bytes(llm: Any, quantize: str, parameters: float) -> float:
    """Linear layers in 4 bits and their scales, or 8 bits; embedding and head in two bytes."""
    tables = 1 if getattr(llm, "tie_word_embeddings", False) else 2
    plain = tables * llm.vocab_size * llm.hidden_size
    # A byte of scale for 64 weights, themselves quantised (double quantisation): 4.127 bits.
    bits = 4.127 if quantize == "4bit" else 8
    return plain * 2 + (parameters - plain) * bits / 8


def _trace_llm(
    config: ReportTrainingConfig,
    llm: Any,
    layers: int,
    lora: bool,
    whole: bool,
    batch: int,
    length: int,
    report_tokens: int,
) -> _Traced:
    """Trace a training step of an LLM of so many layers."""
    values = {**llm.to_dict(), "num_hidden_layers": layers}
    values.pop("quantization_config", None)
    # Lists of a value a layer would contradict the new depth.
    values = {k: v for k, v in values.items() if k != "layer_types"}
    shape = type(llm).from_dict(values)
    dtype = torch.float32 if config.precision == "fp32" else torch.bfloat16
    AttentionInterface.register(_ATTENTION, _attention)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation=_ATTENTION
        )
        model.requires_grad_(whole)
        if lora and config.lora is not None:
            model = attach_lora(model, config.lora)
        model.train()
        embeds = torch.empty(batch, length, shape.hidden_size, dtype=dtype, requires_grad=True)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, Any] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage  # held, so that no other takes its number
            return tensor

        counter = FlopCounterMode(display=False)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            logits = model(
                inputs_embeds=embeds,
                position_ids=torch.arange(length)[None],
                use_cache=False,
                logits_to_keep=torch.arange(report_tokens),
            ).logits
            targets = torch.empty(batch * report_tokens, dtype=torch.long)
            nn.functional.cross_entropy(logits.float().flatten(0, 1), targets).backward()
    return _Traced(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=counter.get_total_flops(),
        kept=sum(storage.nbytes() for storage in kept.values()),
    )


class _FlashAttention(torch.autograd.Function):
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


def _attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **_options: Any
) -> tuple[Tensor, None]:
    out: Tensor = _FlashAttention.apply(query, key, value)
    return out.transpose(1, 2).contiguous(), None


# Encoders in open_clip's layout, whose configuration does not say how many tokens they give.
_OPEN_CLIP = {"biomedclip": 224, "biomedclip-cxr": 518}


def encoder_shape(name: str, revision: str | None = None) -> EncoderShape:
    """Size of an encoder from its configuration alone.

    Args:
        name: as for :func:`llava_rad.encoders.load_encoder`: a registered name, a folder in
            transformers' layout, or a hub id.
        revision: commit on the hub.

    Raises:
        WeightsError: there is no configuration, or it is not of a vision transformer.
    """
    if name in _OPEN_CLIP:
        return _open_clip_shape(_OPEN_CLIP[name])
    source = ENCODERS[name].hub_id if name in ENCODERS else name
    find = _finder(source, revision)
    values = json.loads(find("config.json").read_text(encoding="utf-8"))
    values = values.get("vision_config", values)
    try:
        shape = AutoConfig.for_model(**values)
        with torch.device("meta"):
            model = AutoModel.from_config(shape)
        preprocessing = Preprocessing.read(find("preprocessor_config.json").parent)
        side = preprocessing.image_size // shape.patch_size
        return EncoderShape(
            dim=shape.hidden_size,
            grid=(side, side),
            parameters=sum(p.numel() for p in model.parameters()),
            layers=shape.num_hidden_layers,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"the configuration is not that of a known vision transformer ({error})",
            where=name,
            remedy="Plan with a registered encoder of the same size, such as rad-dino",
            kind="unknown_encoder",
        ) from error


def _open_clip_shape(size: int) -> EncoderShape:
    import timm

    with torch.device("meta"):
        model: Any = timm.create_model(
            "vit_base_patch16_224", img_size=size, num_classes=0, dynamic_img_size=True
        )
    side = size // 16
    parameters = sum(p.numel() for p in model.parameters())
    return EncoderShape(model.embed_dim, (side, side), parameters, len(model.blocks))


def _finder(source: str, revision: str | None) -> Callable[[str], Path]:
    """Finds a small file of a folder or a hub repository."""

    def find(file: str) -> Path:
        folder = Path(source).expanduser()
        if folder.is_dir():
            if (folder / file).is_file():
                return folder / file
            raise WeightsError(
                f"there is no {file}",
                where=folder,
                remedy="Give the folder of an encoder",
                kind="no_config",
            )
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(source, file, revision=revision))
        except Exception as error:  # connection, HTTP, id and disk errors of many classes
            raise WeightsError(
                f"{file} is not on this machine and cannot be downloaded",
                where=source,
                remedy=f"With a connection, run: hf download {source} {file}",
                kind="not_downloaded",
            ) from error

    return find
