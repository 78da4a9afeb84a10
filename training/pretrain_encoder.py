r"""Pretrain an image encoder on radiographs alone, with DINOv2's method.

    python training/pretrain_encoder.py --config configs/encoder/vits14_224.yaml \
        output=runs/encoder data.sources='[{path: /data/xrays}]'

    accelerate launch training/pretrain_encoder.py --config ...      # on several GPUs
    torchrun --nproc_per_node 2 training/pretrain_encoder.py ...     # on several CPU processes

Reads from top to bottom: images, model, optimiser and schedules, the loop, the encoder folder.
Started again with the same configuration, a run that was stopped goes on where its last
checkpoint is and gives the same result as if it had never stopped.
"""

import argparse
import contextlib
import functools
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from llava_rad.config import load_config, save_config
from llava_rad.data import load_manifest
from llava_rad.data.checking import settle_unreadable
from llava_rad.data.image_files import summarise
from llava_rad.dinov2.augmentation import MultiCrop, apply_appearance
from llava_rad.dinov2.backbone import build_backbone
from llava_rad.dinov2.batches import Batch, CropBatches, DrawOrder, ForwardPasses
from llava_rad.dinov2.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from llava_rad.dinov2.config import PretrainingConfig, SourceConfig
from llava_rad.dinov2.export import export_encoder, export_repository_checkpoint
from llava_rad.dinov2.image_cache import pixel_statistics
from llava_rad.dinov2.image_sources import ImageFiles, ImageSource, TarShards, image_folder
from llava_rad.dinov2.param_groups import apply_step_values, parameter_groups
from llava_rad.dinov2.pretrained_heads import load_heads
from llava_rad.dinov2.probe import Probe
from llava_rad.dinov2.readable import open_readable
from llava_rad.dinov2.run_log import CURVES_FILE, RunLog, draw_curves
from llava_rad.dinov2.schedules import Schedules, StepValues, scaled_lr
from llava_rad.dinov2.sharding import shard, synchronise_gradients, whole_state
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.dinov2.watch import EpochWatch, check_collapse, check_finite
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, LlavaRadError, TrainingError
from llava_rad.names import one_line
from llava_rad.processes import process_state

# Global crops, local crops, masks.
ModelInputs = tuple[Tensor, Tensor | None, Tensor]

SMALL_BATCH = 256  # below it, defaults made for large batches need other values


def main(config: PretrainingConfig) -> None:
    """Run a whole pretraining."""
    # Said outright, since Accelerate would take each CPU process of torchrun for the only one.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    processes, say, output = accelerator.num_processes, accelerator.print, config.output
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / "config.yaml")

    # 1. Images. The first process decodes them into the cache, the others then open it.
    with accelerator.main_process_first():
        sources = [open_source(source, config) for source in config.data.sources]
        probe = open_probe(config)
    if not sources:
        raise TrainingError(
            "there are no images to learn from",
            where="data.sources",
            remedy="Set for example data.sources='[{path: FOLDER}]'",
        )
    weights = [source.weight for source in config.data.sources]
    order = DrawOrder([len(source) for source in sources], weights, config.seed)
    mean, std = training_statistics(sources)
    say(f"images            {len(order)} a pass, mean {mean:.4f}, standard deviation {std:.4f}")

    # 2. Student and teacher, the same in every process.
    model, backbone_config = build_model(config, accelerator)

    # 3. Optimiser and schedules, all as functions of the step.
    effective_batch = config.optimiser.batch_size * config.optimiser.accumulate * processes
    epoch_steps = config.schedule.epoch_steps or math.ceil(len(order) / effective_batch)
    peak_lr = scaled_lr(config.optimiser, effective_batch)
    schedules = Schedules(config.schedule, peak_lr, config.optimiser.min_lr, epoch_steps)
    groups = parameter_groups(
        model.student,
        backbone_config.num_hidden_layers,
        config.optimiser.layer_decay,
        config.optimiser.patch_embedding_lr,
    )
    optimiser = torch.optim.AdamW(groups, betas=config.optimiser.betas, fused=True)
    say(f"effective batch   {effective_batch} images, peak learning rate {peak_lr:.2e}")
    say(f"length            {schedules.steps} steps of {epoch_steps} an epoch")
    if effective_batch < SMALL_BATCH:
        say(
            f"WARNING: an effective batch below {SMALL_BATCH} wants fewer prototypes and a colder "
            "teacher (schedule.teacher_temperature); configs/encoder/mini_vitti14.yaml is a start"
        )

    # 4. Go on from the last checkpoint, if there is one.
    step = 0
    checkpoint_folder, settings = output / "checkpoints", config.decides_weights(processes)
    watch = EpochWatch(config.head.prototypes, backbone_config.hidden_size, accelerator.device)
    if found := checkpoints(checkpoint_folder):
        step, collected = load_checkpoint(found[-1], model, optimiser, settings)
        if accelerator.is_main_process:
            watch.load_state(collected)
        say(f"resuming          at step {step} from {found[-1]}")
    log = RunLog(output, step) if accelerator.is_main_process else None

    def tell(name: str, figures: dict[str, float], **unsaid: float) -> None:
        if log:
            log.write(step, step / epoch_steps, **figures, **unsaid)
        say(
            f"{name}  "
            + "  ".join(
                f"{key.removeprefix('probe ')} {value:.3f}" for key, value in figures.items()
            )
        )

    # 5. The loop.
    preprocessing = Preprocessing(
        config.output_size or Phase(config, schedules, schedules.steps - 1).global_size,
        mean=(mean,) * 3,
        std=(std,) * 3,
        rendering=config.data.rendering,
    )
    if probe and step == 0:
        tell("probe", run_probe(probe, model, preprocessing, accelerator))
    model.train()
    started, first = time.perf_counter(), step
    while step < schedules.steps:
        phase = Phase(config, schedules, step)
        batches = crop_batches(config, sources, order, phase, step, backbone_config, accelerator)
        while step < phase.last_step:
            values = schedules.at(step)
            # Stochastic depth too depends on the step alone, so that resuming is exact.
            seed = config.seed * schedules.steps + step
            torch.manual_seed(seed * processes + accelerator.process_index)
            crops = (normalised(next(batches), mean, std) for _ in range(phase.accumulate))
            losses = train_step(config, model, optimiser, crops, values, phase, watch, accelerator)
            step += 1

            # 6. Watch, log, probe, save.
            saves = step == 1 or is_due(step, config.checkpoint_steps, schedules.steps)
            if saves or step % config.log_steps == 0:
                figures = {k: float(v) for k, v in accelerator.reduce(losses, "mean").items()}
                check_finite(figures, step)
                rate = (step - first) * effective_batch / (time.perf_counter() - started)
                tell(f"step {step}/{schedules.steps}  {rate:.1f} images/s", figures, lr=values.lr)
            if step % epoch_steps == 0 or step == schedules.steps:
                summary = watch.summary()
                watch.clear()
                tell("epoch", summary)
                epoch = step / epoch_steps
                if config.looks_for_collapse and epoch > config.schedule.warmup_epochs:
                    check_collapse(summary, epoch)
            if probe and is_due(step, probe.config.every_epochs * epoch_steps, schedules.steps):
                tell("probe", run_probe(probe, model, preprocessing, accelerator))
            if saves:
                saved = save_checkpoint(
                    checkpoint_folder,
                    step,
                    model,
                    optimiser,
                    watch.state(),
                    settings,
                    keep=config.keep_checkpoints,
                    writes=accelerator.is_main_process,
                )
                accelerator.wait_for_everyone()
                if step == 1:  # a run must not die hours later on its first checkpoint
                    load_checkpoint(saved, model, optimiser, settings)
                elif log:
                    draw_curves(output)

    # 7. The teacher becomes an encoder folder.
    teacher = whole_state(model.teacher, keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        facts = {
            "images in training": sum(len(source) for source in sources),
            "optimiser steps": schedules.steps,
            "effective batch": effective_batch,
            "started from": config.backbone.encoder or "random weights",
        }
        dtype = getattr(torch, config.output_dtype)
        export_encoder(backbone_config, teacher, output / "encoder", preprocessing, facts, dtype)
        export_repository_checkpoint(teacher, output / "teacher_checkpoint.pth")
        say(f"encoder           {output / 'encoder'}")
        say(f"curves            {output / CURVES_FILE}")
    accelerator.end_training()


def build_model(
    config: PretrainingConfig, accelerator: Accelerator
) -> tuple[StudentTeacher, PreTrainedConfig]:
    """Return student and teacher, in every process or split over them, and the backbone's sizes."""
    device, processes, say = accelerator.device, accelerator.num_processes, accelerator.print
    torch.manual_seed(config.seed)
    backbone = build_backbone(config.backbone)
    config.check_crop_sizes(backbone.config.patch_size)
    if device.type != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    compute_dtype = torch.bfloat16 if config.precision == "bf16" else None
    sharded = config.sharding == "fsdp2" and processes > 1
    model = StudentTeacher(
        backbone,
        config.head,
        config.ibot_head,
        config.loss,
        None if sharded else compute_dtype,
    ).to(device)
    loaded = load_heads(model.student, config.heads) if config.heads else []
    model.reset_teacher()

    split = ", parameters split over them" if sharded else ""
    say(f"processes         {processes} on {device.type}, {config.precision}{split}")
    say(f"parameters        {sum(p.numel() for p in model.student.parameters()):,} in the student")
    say(f"heads             {describe_heads(config, loaded)}")
    if sharded:
        shard(model, compute_dtype)
    else:
        model.student = accelerator.prepare_model(model.student)
    return model, backbone.config


def crop_batches(
    config: PretrainingConfig,
    sources: list[ImageSource],
    order: DrawOrder,
    phase: "Phase",
    step: int,
    backbone_config: PreTrainedConfig,
    accelerator: Accelerator,
) -> Iterator[Batch]:
    """Yield this process's batches from a step to the end of its phase."""
    batches = CropBatches(
        sources,
        order,
        MultiCrop(config.crops, phase.global_size, phase.local_size),
        config.loss,
        backbone_config.patch_size,
        phase.batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        config.seed,
    )
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=ForwardPasses(step * phase.accumulate, phase.last_step * phase.accumulate),
        num_workers=config.data.workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    return (batch.to(accelerator.device) for batch in loader)


def normalised(batch: Batch, mean: float, std: float) -> ModelInputs:
    """Give crops their appearance: global crops, local crops if there are any, masks."""
    local_crops = None
    if len(batch.local_crops.pixels):
        local_crops = apply_appearance(batch.local_crops, mean, std)
    return apply_appearance(batch.global_crops, mean, std), local_crops, batch.masks


def train_step(
    config: PretrainingConfig,
    model: StudentTeacher,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[ModelInputs],
    values: StepValues,
    phase: "Phase",
    watch: EpochWatch,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Take one step of student and teacher and return this process's losses."""
    apply_step_values(optimiser, values)
    means: dict[str, Tensor] = {}
    for number, inputs in enumerate(batches, start=1):
        with gradient_exchange(accelerator, model.student, last=number == phase.accumulate):
            losses = model(*inputs, values.teacher_temperature)
            accelerator.backward(losses.total / phase.accumulate)
        watch.add(losses.targets, losses.features)
        for name, value in {"total": losses.total.detach(), **losses.parts}.items():
            means[name] = means.get(name, 0) + value / phase.accumulate
    if config.optimiser.clip is not None:
        for part in accelerator.unwrap_model(model.student).children():
            torch.nn.utils.clip_grad_norm_(part.parameters(), config.optimiser.clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    model.update_teacher(values.momentum)
    return means


def run_probe(
    probe: Probe, model: StudentTeacher, preprocessing: Preprocessing, accelerator: Accelerator
) -> dict[str, float]:
    """Score the teacher; every process encodes a share of the images."""
    features = probe.features(
        lambda images: model.teacher(images, None, None).cls,
        preprocessing.with_image_size(probe.config.image_size or preprocessing.image_size),
        accelerator.process_index,
        accelerator.device,
    )
    return probe.scores(features) if accelerator.is_main_process else {}


def open_source(source: SourceConfig, config: PretrainingConfig) -> ImageSource:
    """Return the images of one source, from the cache if there is one."""
    data = config.data
    images: ImageSource
    if source.path.suffix in (".jsonl", ".parquet"):
        studies = load_manifest(source.path, split=source.split)
        paths = [
            image.path
            for study in studies
            for image in study.images
            if data.views is None or image.view in data.views
        ]
        if not paths:
            raise DataError(f"no image has a view of {data.views}", where=source.path)
        images = ImageFiles(paths, data.rendering)
    elif source.path.suffix == ".tar":
        images = TarShards(source.path, data.rendering)
    else:
        images = image_folder(source.path, data.rendering)
    for line in summarise(images.passed_over):
        print_once(line)
    return readable(images, config)


def readable(images: ImageSource, config: PretrainingConfig) -> ImageSource:
    """Return the images that can be read, from the cache if there is one; list the others."""
    data = config.data
    folder = data.cache_folder or config.output / "cache"
    source, skipped = open_readable(images, data, folder)
    leave_out = data.unreadable == "leave_out"
    settle_unreadable(skipped, len(images), leave_out=leave_out, say=print_once)
    return source


def print_once(text: str) -> None:
    """Print in the first process."""
    if process_state().is_main_process:
        print(one_line(text), flush=True)


def open_probe(config: PretrainingConfig) -> Probe | None:
    """Return the probe, if one is asked for."""
    if config.probe is None:
        return None
    prepare = functools.partial(readable, config=config)
    return Probe(config.probe, config.data.views, config.data.rendering, prepare)


def describe_heads(config: PretrainingConfig, loaded: list[str]) -> str:
    """Say where the heads come from, and warn of new ones that would harm a trained backbone."""
    new = [name for name in ("dino_head", "ibot_head") if name not in loaded]
    if config.ibot_head is None:
        new = [name for name in new if name != "ibot_head"]
    parts = [f"{' and '.join(loaded)} from {config.heads}"] if loaded else []
    parts += [f"{' and '.join(new)} new"] if new else []
    alone = config.schedule.heads_only_epochs
    if alone:
        parts.append(f"only the heads train for {alone:g} epochs")
    elif new and config.backbone.encoder is not None:
        parts.append(
            "WARNING: new heads pull a trained backbone towards noise; set heads, or "
            "schedule.heads_only_epochs"
        )
    return ", ".join(parts)


def training_statistics(sources: list[ImageSource]) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of all sources, by their numbers of images."""
    total = sum(len(source) for source in sources)
    mean = square = 0.0
    for source in sources:
        own_mean, own_std = pixel_statistics(source)
        mean += own_mean * len(source) / total
        square += (own_std**2 + own_mean**2) * len(source) / total
    return mean, math.sqrt(square - mean**2)


class Phase:
    """Crop sizes and batch of the phase that a step belongs to, and the step after its last."""

    def __init__(self, config: PretrainingConfig, schedules: Schedules, step: int) -> None:
        high = config.high_resolution
        first_high = schedules.steps
        if high is not None:
            first_high -= round(high.epochs * schedules.epoch_steps)
        if high is None or step < first_high:
            self.global_size = config.crops.global_size
            self.local_size = config.crops.local_size
            self.batch_size = config.optimiser.batch_size
            self.accumulate = config.optimiser.accumulate
            self.last_step = first_high
        else:
            self.global_size = high.global_size
            self.local_size = high.local_size
            self.batch_size = high.batch_size
            self.accumulate = high.accumulate
            self.last_step = schedules.steps


def gradient_exchange(
    accelerator: Accelerator, student: torch.nn.Module, last: bool
) -> AbstractContextManager[None]:
    """Exchange gradients between processes only in the last forward pass of a step."""
    synchronise_gradients(student, last)
    return contextlib.nullcontext() if last else accelerator.no_sync(student)


def is_due(step: int, every: float, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return step == steps or step % max(1, round(every)) == 0


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML of configs/encoder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting")
    arguments = parser.parse_args()
    try:
        main(load_config(PretrainingConfig, arguments.config, arguments.overrides))
    except LlavaRadError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
