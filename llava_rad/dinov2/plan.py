"""What a pretraining will take, before anything is rented: parameters, memory, operations, hours.

No weight and no image is loaded. Student and teacher are built without storage, a step is run on
them, and its operations and what it keeps for the backward pass are counted.
"""

import functools
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from llava_rad.dinov2.backbone import ARCHITECTURES, build_backbone, prepare
from llava_rad.dinov2.config import BackboneConfig, HeadConfig, LossConfig, PretrainingConfig
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.errors import ConfigError
from llava_rad.kernels.vit_layer import PatchMasks
from llava_rad.runs.gpus import UTILISATION, find_gpu

# Registered encoders that a pretraining starts from, so that a plan needs no connection.
_KNOWN = {
    "dinov2-small": "vit_small",
    "dinov2-base": "vit_base",
    "dinov2-large": "vit_large",
    "rad-dino": "vit_base",
    "rad-dino-maira-2": "vit_base",
}
# Bytes that a number of each kind takes: float32, and what AdamW keeps beside it.
_FLOAT, _MOMENTS = 4, 8


@dataclass(frozen=True)
class PretrainingPlan:
    """What a pretraining takes.

    Attributes:
        gpu: name in :data:`llava_rad.runs.gpus.GPUS`.
        processes: GPUs.
        images: of a pass.
        student: parameters of the student, heads included; the teacher has as many.
        effective_batch: images of a step.
        steps: of the run.
        flops: operations of an image, student and teacher.
        hours: of the run.
        memory: peak on each GPU in GB, by what takes it.
        cache_gb: decoded images on disk; 0 where none are kept.
        read_gb: of the images that each process reads in a pass, as they are kept.
        sent_gb: by each GPU in a step.
        checkpoint_gb: on disk.
        written_gb: of it, by the process that writes most.
        host_gb: of the host's memory that a process takes to write its part.
        warnings: what will not work as it stands.
    """

    gpu: str
    processes: int
    images: int
    student: int
    effective_batch: int
    steps: int
    flops: float
    hours: float
    memory: dict[str, float]
    cache_gb: float
    read_gb: float
    sent_gb: float
    checkpoint_gb: float
    written_gb: float
    host_gb: float
    warnings: list[str] = field(default_factory=list)

    @property
    def peak_gb(self) -> float:
        """Peak memory of each GPU."""
        return sum(self.memory.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Lines for the terminal."""
        memory = ", ".join(f"{name} {gb:.1f}" for name, gb in self.memory.items() if gb)
        kept = f"{self.cache_gb:,.1f} GB on disk" if self.cache_gb else "decoded each time"
        lines = [
            f"{self.images:,} images on {self.processes} x {self.gpu}",
            f"  student        {self.student:,} parameters, as many in the teacher",
            f"  step           {self.effective_batch:,} images, a GPU sends {self.sent_gb:.2f} GB",
            f"  peak memory    {self.peak_gb:.1f} GB a GPU ({memory})",
            f"  operations     {self.flops / 1e12:.2f} TFLOP an image",
            f"  time           {self.hours:.1f} h for {self.steps:,} steps",
            f"  images         {kept}, {self.read_gb:,.1f} GB read by a process in a pass",
            f"  checkpoint     {self.checkpoint_gb:.2f} GB, {self.written_gb:.2f} GB by a process, "
            f"{self.host_gb:.2f} GB of host memory to write it",
        ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def plan_pretraining(
    config: PretrainingConfig,
    *,
    images: int,
    gpu: str = "a100-80gb",
    processes: int = 1,
    utilisation: float = UTILISATION,
) -> PretrainingPlan:
    """Estimate a pretraining from its settings.

    A last phase at a higher resolution is counted at its own size. Peak memory leaves out the CUDA
    context and the allocator's waste; hours rest on ``utilisation``, and on images that come as
    fast as they are used.

    Args:
        config: of the run.
        images: in a pass over all sources.
        gpu: name in :data:`llava_rad.runs.gpus.GPUS`.
        processes: GPUs.
        utilisation: share of the GPU's rated operations that are reached.

    Raises:
        ConfigError: an unknown GPU, or a backbone that cannot be built from its name.
    """
    card = find_gpu(gpu)
    settings = config.optimiser
    effective = settings.batch_size * settings.accumulate * processes
    epoch_steps = config.schedule.epoch_steps or math.ceil(images / effective)
    steps = max(1, round(config.schedule.epochs * epoch_steps))
    traced = _trace(config, config.crops.global_size, config.crops.local_size)
    flops, kept = traced.flops, traced.kept * settings.batch_size
    total = flops * steps
    high = config.high_resolution
    if high is not None:
        larger = _trace(config, high.global_size, high.local_size)
        share = high.epochs / config.schedule.epochs
        total = (flops * (1 - share) + larger.flops * share) * steps
        kept = max(kept, larger.kept * high.batch_size)
    split = processes if config.sharding == "fsdp2" else 1
    computed = 4 if config.precision == "fp32" else 2
    student = traced.student
    memory = {
        "student and teacher": 2 * _FLOAT * student / split,
        "gradients and optimiser": (_FLOAT + _MOMENTS) * student / split,
        "copies in half precision": 0.0 if split > 1 or computed == 4 else 2.0 * computed * student,
        "gathered layers": 2.0 * traced.layer * computed if split > 1 else 0.0,
        "activations": kept,
    }
    if split > 1:
        # The student's weights for both passes, the teacher's for one; gradients to their owners.
        sent = (3 * computed + _FLOAT) * student * (processes - 1) / processes
    else:
        sent = 2.0 * _FLOAT * student * (processes - 1) / processes
    stored = (2 * _FLOAT + _MOMENTS) * student
    side = config.data.cache_size
    found = {name: value / 1e9 for name, value in memory.items()}
    peak = sum(found.values())
    warnings = []
    if peak > 0.9 * card.memory:
        warnings.append(
            f"memory: about {peak:.0f} GB are needed, a {gpu} has {card.memory:.0f}: lower "
            "optimiser.batch_size and raise accumulate, or set sharding=fsdp2"
        )
    return PretrainingPlan(
        gpu,
        processes,
        images,
        student,
        effective,
        steps,
        flops=flops,
        hours=total * effective / (card.flops * utilisation) / processes / 3600,
        memory=found,
        cache_gb=images * side**2 / 1e9 if side else 0.0,
        read_gb=images * side**2 / processes / 1e9 if side else 0.0,
        sent_gb=sent / 1e9 * (settings.accumulate if split > 1 else 1),
        checkpoint_gb=stored / 1e9,
        written_gb=stored / split / 1e9,
        host_gb=(stored / split if config.async_checkpoints else traced.largest * _FLOAT / split)
        / 1e9,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Step:
    """What the operations of a step depend on."""

    backbone: BackboneConfig
    head: HeadConfig
    ibot_head: HeadConfig | None
    loss: LossConfig
    precision: str
    global_size: int
    local_size: int
    local_count: int
    recomputed: bool = False


@dataclass(frozen=True)
class _Traced:
    student: int  # parameters
    layer: int
    largest: int
    layers: int
    flops: float  # of an image
    kept: float  # bytes an image keeps for the backward pass


def _trace(config: PretrainingConfig, global_size: int, local_size: int) -> _Traced:
    step = _Step(
        config.backbone,
        config.head,
        config.ibot_head,
        config.loss,
        config.precision,
        global_size,
        local_size,
        config.crops.local_count,
    )
    plain = _trace_step(step)
    if not config.gradient_checkpointing:
        return plain
    # What enters the layers is kept, and one layer at a time is computed again.
    again = _trace_step(replace(step, recomputed=True))
    return replace(again, kept=again.kept + (plain.kept - again.kept) / again.layers)


@functools.lru_cache(maxsize=16)
def _trace_step(step: _Step) -> _Traced:
    with torch.device("meta"):
        model = StudentTeacher(
            _backbone(step.backbone, step.recomputed),
            step.head,
            step.ibot_head,
            step.loss,
            None if step.precision == "fp32" else torch.bfloat16,  # as large as float16
        ).train()
    with FakeTensorMode():  # autocast does not know the meta device
        for part in model.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(
                        torch.empty(value.shape, dtype=value.dtype), value.requires_grad
                    )
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        few, more = (_count(model, step, images) for images in (2, 4))
    backbone: Any = model.student.backbone
    sizes = [parameter.numel() for parameter in model.student.parameters()]
    return _Traced(
        student=sum(sizes),
        layer=sum(p.numel() for p in backbone.encoder.layer[0].parameters()),
        largest=max(sizes),
        layers=len(backbone.encoder.layer),
        flops=(more[0] - few[0]) / 2,
        kept=(more[1] - few[1]) / 2,
    )


def _count(model: StudentTeacher, step: _Step, batch: int) -> tuple[float, float]:
    """Operations of a step on so many images, and the bytes it keeps for the backward pass."""
    backbone: Any = model.student.backbone
    patches = (step.global_size // backbone.config.patch_size) ** 2
    masked = step.loss.mask_probability * sum(step.loss.mask_ratio) / 2
    places = torch.empty(round(2 * batch * patches * masked), dtype=torch.long)
    masks = PatchMasks(torch.empty(2 * batch, patches, dtype=torch.bool), places)
    local = None
    if step.local_count:
        local = torch.empty(step.local_count * batch, 1, step.local_size, step.local_size)
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    entered = 0

    def enter(_: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal entered
        entered += inputs[0].nbytes

    hooks = [
        layer.register_forward_pre_hook(enter)
        for layer in backbone.encoder.layer
        if step.recomputed
    ]
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        crops = torch.empty(2 * batch, 1, step.global_size, step.global_size)
        model(crops, local, masks, 0.04).total.backward()
    model.zero_grad(set_to_none=True)
    for hook in hooks:
        hook.remove()
    # Fused attention is not counted: 2 products of 2 operations forward, 5 backward.
    side = [step.global_size] * 2 + [step.local_size] * step.local_count
    times_of_student = 2 * 2 * (2 if step.recomputed else 1) + 5 * 2
    squares = [(_tokens(backbone.config, size) ** 2, times_of_student) for size in side]
    squares += [(_tokens(backbone.config, size) ** 2, 2 * 2) for size in side[:2]]
    width = backbone.config.hidden_size * backbone.config.num_hidden_layers
    attention = float(batch * width * sum(square * times for square, times in squares))
    held = sum(storage.nbytes() for storage in kept.values())
    return counter.get_total_flops() + attention, float(held + entered)


def _tokens(shape: Any, size: int) -> int:
    """Tokens of a crop."""
    registers: int = getattr(shape, "num_register_tokens", 0)
    return int((size // shape.patch_size) ** 2) + 1 + registers


def _backbone(config: BackboneConfig, recomputed: bool) -> Any:
    """The student's backbone without its weights."""
    if config.encoder is None:
        return build_backbone(config, "plain", recomputed=recomputed)
    name = _KNOWN.get(config.encoder)
    if name is None:
        try:
            values = AutoConfig.from_pretrained(
                config.encoder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the backbone's configuration is not at hand",
                where=config.encoder,
                remedy=f"Plan with one of {', '.join(_KNOWN)}, or a folder in transformers' layout",
            ) from error
        model = AutoModel.from_config(values)
        return prepare(model, config.drop_path, "plain", recomputed=recomputed)
    assert name in ARCHITECTURES
    return build_backbone(
        BackboneConfig(architecture=name, image_size=518, drop_path=config.drop_path),  # type: ignore[arg-type]
        "plain",
        recomputed=recomputed,
    )
