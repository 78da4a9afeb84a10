"""The settings of a pretraining run, one dataclass a part of the method.

Defaults are a chest X-ray recipe for a ViT-S at 224 pixels; ``configs/encoder/*.yaml`` state the
published recipes and say which of their values are ours.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from llava_rad.config import (
    Ascending,
    Count,
    Momentum,
    NonNegative,
    Positive,
    Range,
    Seed,
    Share,
    Workers,
    check_ranges,
    to_dict,
)
from llava_rad.errors import ConfigError
from llava_rad.kernels.choice import Kernels

# Settings that a resumed run may change: they alter what is reported and kept, not the weights.
_FREE_TO_CHANGE = (
    "output",
    "sharding",
    "kernels",
    "compile",
    "gradient_checkpointing",
    "probe",
    "stop_when_collapsed",
    "log_steps",
    "trackers",
    "checkpoint_steps",
    "keep_checkpoints",
    "async_checkpoints",
    "output_size",
    "output_dtype",
)
_BATCH_SETTINGS = ("batch_size", "accumulate")

# A share that leaves something: of an image's area, of a learning rate.
Part = Annotated[float, Range(above=0, high=1)]


def _require(condition: bool, what: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(what, remedy=remedy)


@dataclass(frozen=True)
class SourceConfig:
    """One source of images.

    Attributes:
        path: a folder of images (searched with its subfolders), a manifest (``.jsonl``), or a tar
            shard or a glob of shards (``shards/train-*.tar``).
        split: of a manifest, the studies to use; ``null`` uses all of them.
        weight: how often each of its images is drawn in one pass; 0.5 draws a random half.
    """

    SHORT: ClassVar[str] = "path"

    path: Path
    split: Literal["train", "validation", "test"] | None = "train"
    weight: Annotated[float, Range(above=0, high=1000)] = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are kept.

    Attributes:
        sources: one or several: a path, a list of paths, or :class:`SourceConfig`'s keys.
        views: of manifests, the views to use; ``null`` uses all of them.
        rendering: how a stored image becomes 8-bit (see :func:`llava_rad.images.load_radiograph`).
        cache_size: shorter side in pixels of the decoded copies kept in one memory-mapped file;
            ``null`` decodes each image each time it is drawn, which suits sets too large to keep.
        cache_folder: where that file lies; inside the run's folder if ``null``.
        workers: processes that cut crops; 0 cuts them in the training process.
        unreadable: what happens when, before the first step, an image cannot be read: ``error``
            lists them all and stops, ``leave_out`` lists them and goes on without them.
    """

    sources: list[SourceConfig] = field(default_factory=list)
    views: list[str] | None = None
    rendering: Literal["minmax", "voi"] = "minmax"
    cache_size: Annotated[int, Range(32)] | None = 512
    cache_folder: Path | None = None
    workers: Workers = 4
    unreadable: Literal["error", "leave_out"] = "error"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class BackboneConfig:
    """The vision transformer.

    Attributes:
        encoder: start from this registry name, this folder, or this weight file in the layout of
            the original repository, such as ``teacher_checkpoint.pth``; ``null`` starts from random
            weights.
        architecture: of a new backbone.
        patch_size: in pixels, of a new backbone.
        image_size: side in pixels for which a new backbone has its own position table.
        registers: register tokens of a new backbone.
        layer_scale: initial value of layer scale of a new backbone.
        initialisation: of a new backbone; ``normal`` as DINOv2 starts, or ``glorot_sincos``, with
            which position and content weigh alike from the first step: for short runs (see
            :mod:`llava_rad.dinov2.initialisation`).
        drop_path: stochastic depth of the student, the same rate in every layer, whatever an
            encoder was saved with.
    """

    encoder: str | None = None
    architecture: Literal["vit_tiny", "vit_small", "vit_base", "vit_large"] = "vit_small"
    patch_size: Count = 14
    image_size: Count = 224
    registers: Annotated[int, Range(0)] = 0
    layer_scale: Positive = 1e-5
    initialisation: Literal["normal", "glorot_sincos"] = "normal"
    drop_path: Annotated[float, Range(0, below=1)] = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class CropsConfig:
    """Crops and their appearance.

    X-ray recipe: no colour, grayscale conversion or solarisation; large crops and little blur, so
    that a finding stays in the frame and stays visible.

    Attributes:
        global_size, local_size: sides in pixels.
        local_count: local crops per image; there are always two global ones.
        global_scale, local_scale: smallest and largest share of the image's area.
        aspect_ratio: smallest and largest width over height of the part cut out.
        flip: probability of a horizontal flip (which also swaps the heart's side).
        jitter: probability of changing brightness and contrast.
        brightness, contrast: largest relative change.
        blur: probability of a Gaussian blur for the first global, second global, local crops.
        blur_sigma: smallest and largest standard deviation in pixels of the crop.
    """

    global_size: Count = 224
    local_size: Count = 98
    local_count: Annotated[int, Range(0)] = 8
    global_scale: Annotated[tuple[Part, Part], Ascending()] = (0.32, 1.0)
    local_scale: Annotated[tuple[Part, Part], Ascending()] = (0.05, 0.32)
    aspect_ratio: Annotated[tuple[Positive, Positive], Ascending()] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    jitter: Share = 0.8
    brightness: Share = 0.4
    contrast: Share = 0.4
    blur: tuple[Share, Share, Share] = (0.5, 0.1, 0.1)
    blur_sigma: Annotated[tuple[Positive, Positive], Ascending()] = (0.1, 2.0)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class HeadConfig:
    """A head from tokens to prototypes."""

    prototypes: Annotated[int, Range(2)] = 65536
    hidden_dim: Count = 2048
    bottleneck_dim: Count = 256
    layers: Count = 3

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class LossConfig:
    """The losses and the teacher's targets.

    Attributes:
        dino_weight, ibot_weight, koleo_weight: 0 leaves a loss out.
        koleo_group: images among which KoLeo looks for neighbours; ``null`` takes the whole batch
            of all processes.
        targets: ``sinkhorn`` or ``centring``.
        centre_momentum: of ``centring``.
        student_temperature: of both losses.
        mask_probability: share of the global crops that are masked.
        mask_ratio: smallest and largest share of a masked crop's patches.
    """

    dino_weight: NonNegative = 1.0
    ibot_weight: NonNegative = 1.0
    koleo_weight: NonNegative = 0.1
    koleo_group: Annotated[int, Range(2)] | None = None
    targets: Literal["sinkhorn", "centring"] = "sinkhorn"
    centre_momentum: Momentum = 0.9
    student_temperature: Positive = 0.1
    mask_probability: Share = 0.5
    mask_ratio: Annotated[tuple[Share, Share], Ascending()] = (0.1, 0.5)

    def __post_init__(self) -> None:
        check_ranges(self)
        weights = (self.dino_weight, self.ibot_weight, self.koleo_weight)
        _require(max(weights) > 0, "every loss weight is 0", "Set at least one above 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """What changes over the run. Lengths are in epochs and may be fractions.

    Attributes:
        epochs: length of the run.
        epoch_steps: optimiser steps per epoch; ``null`` makes an epoch one pass over the images.
        warmup_epochs: the learning rate rises linearly from 0.
        weight_decay, momentum: start and end of a cosine.
        teacher_temperature: start and end of a linear warm-up over ``temperature_epochs``.
        freeze_last_layer_epochs: the prototypes stay as they are.
        heads_only_epochs: only the heads train, for a pretrained backbone under new heads; the
            backbone's own warm-up of ``warmup_epochs`` comes after it.
    """

    epochs: Positive = 100
    epoch_steps: Count | None = None
    warmup_epochs: NonNegative = 10
    weight_decay: tuple[NonNegative, NonNegative] = (0.04, 0.4)
    momentum: tuple[Share, Share] = (0.992, 1.0)
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    temperature_epochs: NonNegative = 30
    freeze_last_layer_epochs: NonNegative = 1
    heads_only_epochs: NonNegative = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(
            self.warmup_epochs < self.epochs,
            "warmup_epochs must be below epochs",
            "Shorten the warm-up",
        )
        _require(
            self.heads_only_epochs < self.epochs,
            "heads_only_epochs must be below epochs",
            "Leave time in which the backbone trains",
        )


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW.

    Attributes:
        base_lr: learning rate at an effective batch of 1,024 images.
        scaling: how it follows the effective batch.
        min_lr: at the end of the cosine; not scaled.
        batch_size: images per process and forward pass.
        accumulate: forward passes per optimiser step.
        betas: of AdamW.
        clip: largest gradient norm of the backbone and of each head; ``null`` does not clip.
        layer_decay: learning rate factor per layer, counted from the last one.
        patch_embedding_lr: further factor for the patch embedding.
    """

    base_lr: Positive = 0.004
    scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    min_lr: NonNegative = 1e-6
    batch_size: Count = 64
    accumulate: Count = 1
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    clip: Positive | None = 3.0
    layer_decay: Part = 0.9
    patch_embedding_lr: NonNegative = 0.2

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class HighResolutionConfig:
    """A last phase with larger crops.

    Attributes:
        epochs: the last so many epochs of the run.
        global_size, local_size: sides of the crops in pixels.
        batch_size, accumulate: replace the optimiser's; their product must stay the same.
    """

    epochs: Positive
    global_size: Count
    local_size: Count
    batch_size: Count
    accumulate: Count = 1

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class ProbeConfig:
    """A probe of the teacher's CLS token while the run goes on.

    Attributes:
        manifest: of labelled studies; its training split is learned from, its validation split
            scored, its test split left alone.
        targets: labels by name, ``sex`` and ``age``.
        method: ``linear`` (logistic and ridge regression) or ``knn``.
        neighbours: of ``knn``.
        every_epochs: how often; also before the first step and after the last.
        image_size: side in pixels; ``null`` takes the exported encoder's.
    """

    manifest: Path
    targets: list[str]
    method: Literal["linear", "knn"] = "linear"
    neighbours: Count = 20
    every_epochs: Positive = 1.0
    image_size: Count | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        _require(bool(self.targets), "targets is empty", "Name at least one, such as sex")


@dataclass(frozen=True)
class PretrainingConfig:
    """A whole run of ``training/pretrain_encoder.py``.

    Attributes:
        output: folder of the run.
        heads: trained heads to start from: a published ``dino_head.safetensors``, an encoder folder
            of an earlier run, or a training checkpoint of the original repository.
        ibot_head: settings of a separate head for patches; ``null`` shares the DINO head.
        precision: ``bf16`` computes both networks in bfloat16, ``fp16`` in float16 with a scaled
            loss, for GPUs without bfloat16; parameters, gradients as the optimiser sees them and
            losses are float32 either way.
        sharding: ``fsdp2`` splits parameters, gradients and optimiser over the processes; without
            it each process holds a copy.
        kernels: layers that the backbone is computed with: ``plain`` are in torch's operations,
            ``liger`` has Liger Kernel's norms, for GPUs, ``cpu`` this project's for CPUs; ``auto``
            takes what suits the device (see :mod:`llava_rad.kernels.choice`).
        compile: compile the layers with ``torch.compile``, those for CPUs excepted; the first step
            takes longer.
        gradient_checkpointing: compute activations of the backbone's layers twice instead of
            keeping them.
        probe: measures the teacher while it trains; ``null`` does not.
        stop_when_collapsed: end the run with an error when, after the warm-up, an epoch shows that
            the teacher has collapsed (see :mod:`llava_rad.dinov2.watch`).
        log_steps: steps from one line of the log to the next; figures wait on the device till then.
        trackers: of Accelerate, by name; their files lie in ``output/trackers``.
        output_size: image size in pixels of the exported encoder; the last global crop's if null.
        output_dtype: of the exported encoder's weights.
    """

    output: Path
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    ibot_head: HeadConfig | None = None
    heads: Path | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    high_resolution: HighResolutionConfig | None = None
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    sharding: Literal["none", "fsdp2"] = "none"
    kernels: Kernels = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    probe: ProbeConfig | None = None
    stop_when_collapsed: bool = True
    seed: Seed = 0
    log_steps: Annotated[int, Range(1, 1000)] = 10
    checkpoint_steps: Count = 1000
    keep_checkpoints: Count = 2
    async_checkpoints: bool = False
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    output_size: Count | None = None
    output_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.high_resolution is not None:
            high = self.high_resolution
            _require(
                high.batch_size * high.accumulate
                == self.optimiser.batch_size * self.optimiser.accumulate,
                "the high-resolution phase changes the effective batch",
                "Keep batch_size x accumulate the same in both phases",
            )
            _require(
                high.epochs < self.schedule.epochs,
                "the high-resolution phase is as long as the run",
                "Shorten it, or set crops.global_size",
            )
        if self.backbone.encoder is None:
            self.check_crop_sizes(self.backbone.patch_size)
        _require(
            self.loss.ibot_weight > 0 or self.ibot_head is None,
            "ibot_head is set but loss.ibot_weight is 0",
            "Remove ibot_head or set the weight",
        )

    def check_crop_sizes(self, patch: int) -> None:
        """Refuse crops that do not divide into patches of ``patch`` pixels.

        Raises:
            ConfigError: naming the size and the nearest ones that do.
        """
        sizes = [self.crops.global_size]
        local_sizes = [self.crops.local_size]
        if self.high_resolution is not None:
            sizes.append(self.high_resolution.global_size)
            local_sizes.append(self.high_resolution.local_size)
        for size in sizes + (local_sizes if self.crops.local_count else []):
            _require(
                size % patch == 0,
                f"a crop of {size} pixels is no multiple of the patch size {patch}",
                f"Use {max(size // patch, 1) * patch} or {(size // patch + 1) * patch}",
            )

    @property
    def looks_for_collapse(self) -> bool:
        """Whether the run stops on collapse; without the DINO loss there is no sign to go by."""
        return self.stop_when_collapsed and self.loss.dino_weight > 0

    def decides_weights(self, processes: int) -> dict[str, Any]:
        """Return the settings that a run must keep to go on from a checkpoint.

        The effective batch must stay, however it is shared out over processes and forward passes.
        """
        values = {key: v for key, v in to_dict(self).items() if key not in _FREE_TO_CHANGE}
        for name in ("cache_folder", "workers", "unreadable"):
            del values["data"][name]
        batch, accumulate = (values["optimiser"].pop(name) for name in _BATCH_SETTINGS)
        values["optimiser"]["effective_batch"] = batch * accumulate * processes
        if values["high_resolution"] is not None:
            for name in _BATCH_SETTINGS:
                del values["high_resolution"][name]
        return values
