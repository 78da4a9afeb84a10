"""The settings of a pretraining run, one dataclass a part of the method.

Defaults are a chest X-ray recipe for a ViT-S at 224 pixels; ``configs/encoder/*.yaml`` state the
published recipes and say which of their values are ours.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llava_rad.errors import ConfigError


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

    path: Path
    split: str | None = "train"
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(self.weight > 0, "weight must be above 0", "Leave the source out instead")


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and how they are kept.

    Attributes:
        sources: one or several.
        views: of manifests, the views to use; ``null`` uses all of them.
        rendering: how a stored image becomes 8-bit (see :func:`llava_rad.images.load_radiograph`).
        cache_size: shorter side in pixels of the decoded copies kept in one memory-mapped file;
            ``null`` decodes each image each time it is drawn, which suits sets too large to keep.
        cache_folder: where that file lies; inside the run's folder if ``null``.
        workers: processes that cut crops; 0 cuts them in the training process.
    """

    sources: list[SourceConfig] = field(default_factory=list)
    views: list[str] | None = None
    rendering: Literal["minmax", "voi"] = "minmax"
    cache_size: int | None = 512
    cache_folder: Path | None = None
    workers: int = 4


@dataclass(frozen=True)
class BackboneConfig:
    """The vision transformer.

    Attributes:
        encoder: start from this registry name or folder; ``null`` starts from random weights.
        architecture: of a new backbone.
        patch_size: in pixels, of a new backbone.
        image_size: side in pixels for which a new backbone has its own position table.
        registers: register tokens of a new backbone.
        layer_scale: initial value of layer scale of a new backbone.
        drop_path: stochastic depth of the student, the same rate in every layer.
    """

    encoder: str | None = None
    architecture: Literal["vit_tiny", "vit_small", "vit_base", "vit_large"] = "vit_small"
    patch_size: int = 14
    image_size: int = 224
    registers: int = 0
    layer_scale: float = 1e-5
    drop_path: float = 0.0


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

    global_size: int = 224
    local_size: int = 98
    local_count: int = 8
    global_scale: tuple[float, float] = (0.32, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.32)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    blur: tuple[float, float, float] = (0.5, 0.1, 0.1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True)
class HeadConfig:
    """A head from tokens to prototypes."""

    prototypes: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    layers: int = 3


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

    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    koleo_group: int | None = None
    targets: Literal["sinkhorn", "centring"] = "sinkhorn"
    centre_momentum: float = 0.9
    student_temperature: float = 0.1
    mask_probability: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        weights = (self.dino_weight, self.ibot_weight, self.koleo_weight)
        _require(min(weights) >= 0, "a loss weight is below 0", "Use 0 to leave a loss out")
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
        heads_only_epochs: only the heads train; for a pretrained backbone under new heads.
    """

    epochs: float = 100
    epoch_steps: int | None = None
    warmup_epochs: float = 10
    weight_decay: tuple[float, float] = (0.04, 0.4)
    momentum: tuple[float, float] = (0.992, 1.0)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    temperature_epochs: float = 30
    freeze_last_layer_epochs: float = 1
    heads_only_epochs: float = 0

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "epochs must be above 0", "Set the length of the run")
        _require(
            self.warmup_epochs < self.epochs,
            "warmup_epochs must be below epochs",
            "Shorten the warm-up",
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

    base_lr: float = 0.004
    scaling: Literal["sqrt", "linear", "none"] = "sqrt"
    min_lr: float = 1e-6
    batch_size: int = 64
    accumulate: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 3.0
    layer_decay: float = 0.9
    patch_embedding_lr: float = 0.2


@dataclass(frozen=True)
class HighResolutionConfig:
    """A last phase with larger crops.

    Attributes:
        epochs: the last so many epochs of the run.
        global_size, local_size: sides of the crops in pixels.
        batch_size, accumulate: replace the optimiser's; their product must stay the same.
    """

    epochs: float
    global_size: int
    local_size: int
    batch_size: int
    accumulate: int = 1


@dataclass(frozen=True)
class PretrainingConfig:
    """A whole run of ``training/pretrain_encoder.py``.

    Attributes:
        output: folder of the run.
        heads: safetensors file of a published DINO head to start from.
        ibot_head: settings of a separate head for patches; ``null`` shares the DINO head.
        precision: ``bf16`` computes both networks in bfloat16; parameters, gradients as the
            optimiser sees them and losses are float32 either way.
        sharding: ``fsdp2`` splits parameters, gradients and optimiser over the processes.
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
    precision: Literal["bf16", "fp32"] = "bf16"
    sharding: Literal["none", "fsdp2"] = "none"
    seed: int = 0
    log_steps: int = 10
    checkpoint_steps: int = 1000
    keep_checkpoints: int = 2
    output_size: int | None = None
    output_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        patch = self.backbone.patch_size
        sizes = [self.crops.global_size, self.crops.local_size]
        if self.high_resolution is not None:
            high = self.high_resolution
            sizes += [high.global_size, high.local_size]
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
            for size in sizes:
                _require(
                    size % patch == 0,
                    f"a crop of {size} pixels is no multiple of the patch size {patch}",
                    f"Use {size // patch * patch} or {(size // patch + 1) * patch}",
                )
        _require(
            self.loss.ibot_weight > 0 or self.ibot_head is None,
            "ibot_head is set but loss.ibot_weight is 0",
            "Remove ibot_head or set the weight",
        )
