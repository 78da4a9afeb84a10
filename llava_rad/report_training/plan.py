"""What a run will take, before anything is rented: parameters, tokens, memory, operations, hours.

No weight is loaded. Parameters and tokens are exact; operations and kept activations are those of
a traced step (:mod:`llava_rad.report_training.traced_step`). The levers (pooled tokens, fused
attention and others) are planned by the same count, each with the rest as the configuration has it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any

import torch

from llava_rad.errors import ConfigError
from llava_rad.model import Adapter
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.report_training.shapes import EncoderShape, encoder_shape, llm_shape
from llava_rad.report_training.traced_step import StepShape, TracedStep, is_fused, trace_step
from llava_rad.runs.gpus import UTILISATION, Gpu, find_gpu


@dataclass(frozen=True)
class Workload:
    """What a study is to the LLM, and how its tokens are handled.

    Attributes:
        images: of a study, on average.
        prompt_tokens: text of a prompt.
        report_tokens: of a report, its end included.
        spread: standard deviation of the reports' length, as a share of the mean.
        grouped: batches are made of studies of similar length; else each is padded to the
            longest of a random batch.
        all_logits: the vocabulary projection is computed for every token, not for the report's.
    """

    images: float = 1.0
    prompt_tokens: int = 80
    report_tokens: int = 90
    spread: float = 0.5
    grouped: bool = True
    all_logits: bool = False

    def padding(self, batch: int) -> int:
        """Tokens that the mean sample of a random batch is padded with.

        The largest of a batch of normally distributed lengths (Blom's approximation).
        """
        if self.grouped or batch < 2:
            return 0
        largest = NormalDist().inv_cdf((batch - 0.375) / (batch + 0.25))
        return round(largest * self.spread * self.report_tokens)


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
        time: seconds of a sample on one GPU, by what takes them.
        steps: optimiser steps.
        hours: of the stage.
        checkpoint_gb: trained weights and what the optimiser keeps, on disk.
        written_gb: of it, by the process that writes most.
        host_gb: of the host's memory that a process takes to write its part.
        loading_gb: of the host's memory that the process takes which reads the LLM.
    """

    stage: str
    trained: int
    frozen: int
    tokens: int
    image_tokens: int
    memory: dict[str, float]
    flops: float
    time: dict[str, float]
    steps: int
    hours: float
    checkpoint_gb: float
    written_gb: float
    host_gb: float
    loading_gb: float

    @property
    def peak_gb(self) -> float:
        """Peak memory of each GPU."""
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        """Of a sample on one GPU."""
        return sum(self.time.values())


@dataclass(frozen=True)
class Lever:
    """What one change of the last stage would do, all else as configured.

    Attributes:
        name: what is changed.
        now: how it is configured.
        then: how it would be.
        speed: samples a second, times those of the configuration.
        memory_gb: peak memory of each GPU, less that of the configuration.
    """

    name: str
    now: str
    then: str
    speed: float
    memory_gb: float


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        stages: in their order.
        gpu: name in :data:`llava_rad.runs.gpus.GPUS`.
        processes: GPUs.
        studies: learnt from.
        cache_gb: patch tokens on disk, were they kept.
        encode_hours: to compute them once.
        cached: stages that learn from kept patch tokens.
        levers: what could be changed in the last stage, and what that would do.
        warnings: what will not work as it stands, each ``kind: text``.
    """

    stages: list[StagePlan]
    gpu: str
    processes: int
    studies: int
    cache_gb: float
    encode_hours: float
    cached: list[str]
    levers: list[Lever]
    warnings: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """All stages, and the encoding where patch tokens are kept."""
        encoding = self.encode_hours if self.cached else 0.0
        return encoding + sum(stage.hours for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Lines for the terminal."""
        lines = [f"{self.studies:,} studies on {self.processes} x {self.gpu}"]
        for stage in self.stages:
            memory = ", ".join(f"{name} {gb:.1f}" for name, gb in stage.memory.items() if gb)
            time = ", ".join(
                f"{name} {seconds / stage.seconds:.0%}"
                for name, seconds in stage.time.items()
                if seconds > 0.005 * stage.seconds
            )
            share = stage.image_tokens / stage.tokens
            lines += [
                "",
                stage.stage,
                f"  trained        {stage.trained:,} parameters",
                f"  frozen         {stage.frozen:,}",
                f"  sample         {stage.tokens:,} tokens, {stage.image_tokens:,} of images "
                f"({share:.0%})",
                f"  peak memory    {stage.peak_gb:.1f} GB a GPU ({memory})",
                f"  operations     {stage.flops / 1e12:.2f} TFLOP a sample",
                f"  time           {stage.hours:.1f} h for {stage.steps:,} steps ({time})",
                f"  checkpoint     {stage.checkpoint_gb:.2f} GB, {stage.written_gb:.2f} GB by a "
                f"process, {stage.host_gb:.2f} GB of host memory to write it",
                f"  loading        {stage.loading_gb:.2f} GB of host memory in one process",
            ]
        lines += ["", f"whole run        {self.hours:.1f} h"]
        kept = f"kept for {' and '.join(self.cached)}" if self.cached else "not kept"
        size = f"{self.cache_gb:.1f} GB on disk, {self.encode_hours:.1f} h once"
        lines.append(f"patch tokens     {kept}; {size}")
        lines += ["", *_lever_table(self.levers, self.stages[-1].stage)]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def _lever_table(levers: list[Lever], stage: str) -> list[str]:
    heads = (f"lever in {stage}", "now", "then", "samples/s", "GB a GPU")
    rows = [(r.name, r.now, r.then, f"{r.speed:.2f} x", f"{r.memory_gb:+.1f}") for r in levers]
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    return [
        "  ".join(
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]


def plan(
    config: ReportTrainingConfig,
    *,
    studies: int,
    gpu: str = "a100-80gb",
    processes: int | None = None,
    workload: Workload | None = None,
    utilisation: float = UTILISATION,
) -> Plan:
    """Estimate a run from its settings.

    Peak memory leaves out the CUDA context and the allocator's waste; hours rest on
    ``utilisation``.

    Args:
        config: of the run.
        studies: learnt from in an epoch.
        gpu: name in :data:`llava_rad.runs.gpus.GPUS`.
        processes: GPUs; None takes the configuration's, else 1.
        workload: what a study is; default: one image and texts of common length.
        utilisation: share of the GPU's rated operations that are reached.

    Raises:
        ConfigError: an unknown GPU, a batch that does not divide, or a stage whose time goes into
            the reports that the model writes.
        WeightsError: a model's configuration cannot be found.
    """
    if "reinforce" in config.stages:
        raise ConfigError(
            "a plan knows the stages that read reports, not reinforce, whose time goes into those "
            "that the model writes",
            where="stage",
            remedy="Plan stage=both; the first steps of reinforce say how long it takes",
        )
    card = find_gpu(gpu)
    workload = workload or Workload()
    machines = _Machines(card, processes or config.processes or 1, utilisation)
    encoder = encoder_shape(config.encoder, config.encoder_revision)
    stages = [
        _plan_stage(config, stage, encoder, machines, workload, studies) for stage in config.stages
    ]
    warnings = []
    length = stages[-1].tokens
    if length > config.data.max_length:
        warnings.append(
            f"max_length: a sample has {length} tokens, data.max_length is "
            f"{config.data.max_length}: reports are cut or left out"
        )
    warnings += [
        f"memory: {found.stage} needs about {found.peak_gb:.0f} GB, a {gpu} has "
        f"{card.memory:.0f}: lower micro_batch, pool the patch tokens, set "
        "gradient_checkpointing, quantize or sharding=fsdp2"
        for found in stages
        if found.peak_gb > 0.9 * card.memory
    ]
    levers = []
    for name, now, then, other, handled in _changes(config, workload):
        changed = _plan_stage(other, config.stages[-1], encoder, machines, handled, studies)
        speed = stages[-1].seconds / changed.seconds
        levers.append(Lever(name, now, then, speed, changed.peak_gb - stages[-1].peak_gb))
    shown = studies * workload.images
    return Plan(
        stages,
        gpu,
        machines.count,
        studies,
        cache_gb=shown * encoder.tokens * encoder.dim * 2 / 1e9,
        encode_hours=shown * encoder.flops / machines.flops / machines.count / 3600,
        cached=[stage for stage in config.stages if _is_cached(config, stage)],
        levers=levers,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Machines:
    gpu: Gpu
    count: int
    utilisation: float

    @property
    def flops(self) -> float:
        """Operations a second that one GPU reaches."""
        return self.gpu.flops * self.utilisation


def _changes(
    config: ReportTrainingConfig, workload: Workload
) -> Iterator[tuple[str, str, str, ReportTrainingConfig, Workload]]:
    """Name, state now, state then, and the settings of each lever turned the other way."""

    def words(on: bool) -> tuple[str, str]:
        return ("on", "off") if on else ("off", "on")

    pool = config.adapter.pool
    pooled = replace(config.adapter, pool=2 if pool == 1 else 1)
    yield (
        "pooled tokens",
        *(("off", "2 x 2") if pool == 1 else (f"{pool} x {pool}", "off")),
        replace(config, adapter=pooled),
        workload,
    )
    yield (
        "batches by length",
        *words(workload.grouped),
        config,
        replace(workload, grouped=not workload.grouped),
    )
    fused = is_fused(config.attention)
    yield (
        "fused (flash) attention",
        *words(fused),
        replace(config, attention="eager" if fused else None),
        workload,
    )
    cached = _is_cached(config, config.stages[-1])
    data = replace(config.data, cache_features=not cached, augment=False)
    yield "cached features", *words(cached), replace(config, data=data), workload
    yield (
        "labels-only logits",
        *words(not workload.all_logits),
        config,
        replace(workload, all_logits=not workload.all_logits),
    )
    twice = config.gradient_checkpointing
    yield (
        "gradient checkpointing",
        *words(twice),
        replace(config, gradient_checkpointing=not twice),
        workload,
    )


def _is_cached(config: ReportTrainingConfig, stage: str) -> bool:
    return config.stores_features(stage, "cuda")  # the plan is of GPUs


def _plan_stage(
    config: ReportTrainingConfig,
    stage: str,
    encoder: EncoderShape,
    machines: _Machines,
    workload: Workload,
    studies: int,
) -> StagePlan:
    settings = config.of(stage)
    settings.accumulate(machines.count)
    batch = settings.micro_batch
    image_tokens = round(workload.images * config.adapter.tokens(encoder.grid))
    prompt_tokens = 0 if settings.prompt == "plain" else workload.prompt_tokens
    tokens = image_tokens + prompt_tokens + workload.report_tokens
    length = tokens + workload.padding(batch)
    llm = llm_shape(config.llm, config.llm_revision)
    whole = stage == "finetune" and config.lora is None
    shape = StepShape(
        batch=batch,
        length=length,
        logits=length if workload.all_logits else workload.report_tokens,
        lora=config.lora if stage == "finetune" else None,
        whole=whole,
        bf16=config.precision == "bf16",
        quantised=config.quantize is not None,
        fused=is_fused(config.attention),
    )
    step = trace_step(llm, shape)
    with torch.device("meta"):
        layers = Adapter(config.adapter, encoder.dim, llm.hidden_size)
    of_adapter = [parameter.numel() for parameter in layers.parameters()]
    adapter = sum(of_adapter)
    images = 0.0 if _is_cached(config, stage) else workload.images
    flops = {
        "layers, image tokens": step.layer_flops * image_tokens / length / batch,
        "layers, text tokens": step.layer_flops * (1 - image_tokens / length) / batch,
        "attention": step.attention_flops / batch,
        "vocabulary": step.head_flops / batch,
        "adapter": 6.0 * adapter * image_tokens,
        "encoder": images * encoder.flops,
    }
    traffic = step.square_bytes / batch
    if config.gradient_checkpointing:
        # The layers run forward once more.
        again = 2.0 * step.layer * llm.num_hidden_layers * length
        flops["layers, image tokens"] += again * image_tokens / length
        flops["layers, text tokens"] += again * (1 - image_tokens / length)
        flops["attention"] *= 9 / 7 if shape.fused else 4 / 3
        traffic *= 1.5
    time = {name: value / machines.flops for name, value in flops.items()}
    time["attention"] += traffic / machines.gpu.bandwidth
    epochs = studies * settings.epochs
    # A parameter and AdamW's two moments, in float32; split over the processes each writes its own.
    stored = 12.0 * (step.trained + adapter) / 1e9
    split = machines.count if config.sharding == "fsdp2" else 1
    table = llm.vocab_size * llm.hidden_size
    largest = 4.0 * max(*of_adapter, table if whole else 0) / 1e9
    # Split layer by layer from one process's memory; else each tensor goes straight to the GPU.
    number = 2 if shape.bf16 and not whole else 4
    loading = float(number * (step.parameters if split > 1 else table)) / 1e9
    return StagePlan(
        stage,
        trained=step.trained + adapter,
        frozen=step.parameters - step.trained + encoder.parameters,
        tokens=tokens,
        image_tokens=image_tokens,
        memory=_memory(config, shape, step, llm, adapter, encoder, machines.count),
        flops=sum(flops.values()),
        time=time,
        steps=max(1, -(-int(epochs) // settings.batch_size)),
        hours=sum(time.values()) * epochs / machines.count / 3600,
        checkpoint_gb=stored,
        written_gb=stored / split,
        host_gb=(stored if config.async_checkpoints else largest) / split,
        loading_gb=loading,
    )


def _memory(
    config: ReportTrainingConfig,
    shape: StepShape,
    step: TracedStep,
    llm: Any,
    adapter: int,
    encoder: EncoderShape,
    processes: int,
) -> dict[str, float]:
    """Peak on each GPU in GB, by what takes it."""
    # Frozen weights are kept in the dtype of the computation, trained ones in float32.
    computed = 2 if shape.bf16 else 4
    trained, frozen = step.trained + adapter, step.parameters - step.trained
    weights = float(frozen * computed)
    if config.quantize:
        weights = _quantised_bytes(llm, config.quantize, frozen)
    kept = step.other_kept + llm.num_hidden_layers * step.layer_kept
    if config.gradient_checkpointing:
        # Each layer keeps its input, and one at a time is computed again.
        inputs = shape.batch * shape.length * llm.hidden_size * computed
        kept = step.other_kept + step.layer_kept + llm.num_hidden_layers * inputs
    split = processes if config.sharding in ("fsdp2", "zero3") else 1
    split_state = processes if config.sharding in ("fsdp2", "zero2", "zero3") else 1
    memory = {
        "frozen weights": weights / split,
        "trained weights": trained * 4 / split,
        # Gradient and AdamW's two moments, each in float32.
        "gradients and optimiser": trained * 12 / split_state,
        "encoder": encoder.parameters * 4.0,
        "activations": kept,
        # As they are, and two gradients in float32; their logarithms are kept, and counted there.
        "logits": shape.batch * shape.logits * llm.vocab_size * (computed + 8.0),
    }
    if split > 1:
        # The layer at work and the next one are whole.
        memory["gathered layers"] = 2.0 * step.layer * (4 if shape.whole else computed)
    return {name: value / 1e9 for name, value in memory.items()}


def _quantised_bytes(llm: Any, quantize: str, parameters: float) -> float:
    """Linear layers in 4 bits and their scales, or 8 bits; embedding and head in two bytes."""
    tables = 1 if getattr(llm, "tie_word_embeddings", False) else 2
    plain = tables * llm.vocab_size * llm.hidden_size
    # A byte of scale for 64 weights, themselves quantised (double quantisation): 4.127 bits.
    bits = 4.127 if quantize == "4bit" else 8
    return plain * 2 + (parameters - plain) * bits / 8
