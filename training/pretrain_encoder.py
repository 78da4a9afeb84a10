r"""Pretrain an image encoder on radiographs alone, with DINOv2's method.

    python training/pretrain_encoder.py vits14_224 output=runs/encoder data.sources=/data/xrays
    accelerate launch training/pretrain_encoder.py ...             # on several GPUs
    torchrun --nproc_per_node 2 training/pretrain_encoder.py ...   # on several CPU processes

Reads from top to bottom: images, model, optimiser and schedules, the loop, the encoder folder.
Started again with the same configuration, a run that was stopped goes on where its last
checkpoint is and gives the same result as if it had never stopped. Ctrl-C or SIGTERM finish the
step and write a checkpoint first.
"""

if __name__ == "__main__":  # --help ends here, before anything heavy is imported
    from llava_rad.ending import leave_quietly

    leave_quietly()

    from llava_rad.cli.training import read_arguments

    ARGUMENTS = read_arguments(__doc__, "training/pretrain_encoder.py", "encoder")

import contextlib
import functools
import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

from llava_rad.config import save_config
from llava_rad.data import hash_manifest, load_manifest
from llava_rad.data.checking import settle_unreadable
from llava_rad.data.image_files import summarise
from llava_rad.dinov2.augmentation import MultiCrop, apply_appearance
from llava_rad.dinov2.backbone import build_backbone
from llava_rad.dinov2.batches import Batch, CropBatches, DrawOrder, ForwardPasses
from llava_rad.dinov2.config import PretrainingConfig, SourceConfig
from llava_rad.dinov2.curves import CURVES_FILE, draw_curves
from llava_rad.dinov2.export import export_encoder, export_repository_checkpoint
from llava_rad.dinov2.image_cache import pixel_statistics
from llava_rad.dinov2.image_sources import ImageFiles, ImageSource, TarShards, image_folder
from llava_rad.dinov2.param_groups import apply_step_values, parameter_groups
from llava_rad.dinov2.pretrained_heads import load_heads
from llava_rad.dinov2.probe import Probe
from llava_rad.dinov2.readable import open_readable
from llava_rad.dinov2.schedules import Schedules, StepValues, scaled_lr
from llava_rad.dinov2.sharding import shard, synchronise_gradients
from llava_rad.dinov2.student_teacher import StudentTeacher
from llava_rad.dinov2.watch import EpochWatch, check_collapse, signs
from llava_rad.encoders import Preprocessing
from llava_rad.errors import DataError, TrainingError
from llava_rad.kernels.choice import choose
from llava_rad.kernels.vit_layer import PatchMasks
from llava_rad.names import one_line
from llava_rad.processes import process_state
from llava_rad.runs.checkpoints import FOLDER, Checkpoint, CheckpointWriter, find_resumable
from llava_rad.runs.checks import UnreadSteps, drop_broken_gradient
from llava_rad.runs.curves import Pace
from llava_rad.runs.inputs import check_inputs, remember_inputs
from llava_rad.runs.launch import process_group, run_program
from llava_rad.runs.log import RunLog
from llava_rad.runs.loss_scale import LossScale
from llava_rad.runs.state import (
    optimiser_tensors,
    restore_optimiser,
    restore_tensors,
    whole,
    whole_tensors,
)
from llava_rad.runs.stopping import Interrupted, StepBorder, calm_worker
from llava_rad.runs.together import in_all, on_main, owned_folder

# Global crops, local crops, masks.
ModelInputs = tuple[Tensor, Tensor | None, PatchMasks]

STAGE = "pretrain"  # the only one
MANIFESTS = (".jsonl", ".parquet")

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
SMALL_BATCH = 256  # below it, defaults made for large batches need other values


def main(config: PretrainingConfig) -> None:
    """Run a whole pretraining."""
    # Said outright, since Accelerate would take each CPU process of torchrun for the only one.
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[process_group()],
        log_with=config.trackers,
        project_dir=str(config.output),
    )
    with owned_folder(config.output, accelerator):
        pretrain(config, accelerator)
    accelerator.end_training()


def pretrain(config: PretrainingConfig, accelerator: Accelerator) -> None:
    """Run a pretraining in a folder that it owns."""
    processes, say, output = accelerator.num_processes, accelerator.print, config.output

    # 1. Images, and whether a run with these is to be resumed. The first process decodes them into
    # the cache, the others then open it.
    if not config.data.sources:
        raise TrainingError(
            "there are no images to learn from",
            where="data.sources",
            remedy="Set for example data.sources=FOLDER",
        )
    images = in_all(accelerator, lambda: [open_source(s, config) for s in config.data.sources])
    facts = on_main(accelerator, lambda: facts_of(config, processes))
    checkpoint = find_resumable(output / FOLDER, facts["settings"], facts["manifests"], accelerator)
    on_main(accelerator, lambda: open_run(config, images, resumes=checkpoint is not None))
    opened: list[tuple[list[ImageSource], Probe | None]] = []

    def open_all() -> None:
        if not opened:
            opened.append(([readable(source, config) for source in images], open_probe(config)))

    on_main(accelerator, open_all)
    in_all(accelerator, open_all)
    sources, probe = opened[0]
    accelerator.init_trackers("trackers")
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
    watch = EpochWatch(config.head.prototypes, backbone_config.hidden_size, accelerator.device)
    scale = LossScale(accelerator.device) if config.precision == "fp16" else None
    if checkpoint is not None:
        load(checkpoint, model, optimiser, scale, watch, accelerator)
        step = checkpoint.step
        say(f"resuming          at step {step} from {checkpoint.path}")
    log, border = RunLog(output, STAGE, step, [STAGE], accelerator), StepBorder(accelerator)

    unread = UnreadSteps(
        accelerator,
        "Start again in another output: lower optimiser.base_lr or optimiser.clip, lengthen "
        "schedule.warmup_epochs, or set precision=fp32 to see whether rounding is the reason",
    )

    checkpoints = CheckpointWriter(
        output / FOLDER,
        accelerator,
        keep=config.keep_checkpoints,
        background=config.async_checkpoints,
    )

    def save() -> None:
        unread.read()
        tensors = {
            "weights": model.state_dict(),
            "optimiser": optimiser_tensors(model.student.named_parameters(), optimiser),
            "watch": watch.state(),
        }
        if scale is not None:
            tensors["scale"] = scale.state()
        # A run must not fail hours later for its first checkpoint.
        checkpoints.save(STAGE, step, tensors, facts, check=step == 1)

    def tell(name: str, figures: dict[str, float], **unsaid: float) -> None:
        log.write(step, epoch=step / epoch_steps, **figures, **unsaid)
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
    pictures = Pace()
    started, first, saved_at = time.perf_counter(), step, step
    batches = crop_batches(config, sources, order, schedules, step, backbone_config, accelerator)
    with checkpoints, border, contextlib.closing(batches):
        while step < schedules.steps:
            phase = Phase(config, schedules, step)
            accumulate = phase.accumulate
            inputs = border.cross(functools.partial(_take, batches, accumulate))
            if border.signal:
                if saved_at < step:
                    save()
                checkpoints.settle()
                raise Interrupted(border.signal)
            values = schedules.at(step)
            # Stochastic depth too depends on the step alone, so that resuming is exact.
            seed = config.seed * schedules.steps + step
            torch.manual_seed(seed * processes + accelerator.process_index)
            crops = (normalised(batch, mean, std) for batch in inputs)
            unread.add(
                step,
                train_step(
                    config, model, optimiser, scale, crops, values, phase, watch, accelerator
                ),
            )
            step += 1

            # 6. Watch, log, probe, save.
            saves = step == 1 or is_due(step, config.checkpoint_steps, schedules.steps)
            if saves or step % config.log_steps == 0:
                checkpoints.settle(wait=False)
                figures = {n.removesuffix(" loss"): v for n, v in unread.read()[-1].items()}
                rate = (step - first) * effective_batch / (time.perf_counter() - started)
                tell(f"step {step}/{schedules.steps}  {rate:.1f} images/s", figures, lr=values.lr)
            if step % epoch_steps == 0 or step == schedules.steps:
                unread.read()  # numbers that are not finite have no summary
                summary = watch.summary()
                watch.clear()
                tell("epoch", summary)
                epoch = step / epoch_steps
                if config.looks_for_collapse and epoch > config.schedule.warmup_epochs:
                    check_collapse(summary, epoch)
            if probe and is_due(step, probe.config.every_epochs * epoch_steps, schedules.steps):
                tell("probe", run_probe(probe, model, preprocessing, accelerator))
            if saves:
                save()
                saved_at = step
                if accelerator.is_main_process and (pictures.due() or step == schedules.steps):
                    draw_curves(output, config)

    # 7. The teacher becomes an encoder folder.
    teacher = whole_tensors(model.teacher.state_dict().items(), accelerator.is_main_process)

    def write_encoder() -> None:
        card = {
            "images in training": sum(len(source) for source in sources),
            "optimiser steps": schedules.steps,
            "effective batch": effective_batch,
            "started from": config.backbone.encoder or "random weights",
        }
        dtype = getattr(torch, config.output_dtype)
        export_encoder(backbone_config, teacher, output / "encoder", preprocessing, card, dtype)
        export_repository_checkpoint(teacher, output / "teacher_checkpoint.pth")

    on_main(accelerator, write_encoder)
    say(f"encoder           {output / 'encoder'}")
    say(f"curves            {output / CURVES_FILE}")


def facts_of(config: PretrainingConfig, processes: int) -> dict[str, dict]:
    """What a run must keep to be resumed."""
    manifests = [s.path for s in config.data.sources if s.path.suffix in MANIFESTS]
    return {
        "settings": config.decides_weights(processes),
        "manifests": {path.name: hash_manifest(path) for path in manifests},
    }


def open_run(config: PretrainingConfig, images: list[ImageSource], *, resumes: bool) -> None:
    """See that a run goes on with the same images; its folder then says what it is run with."""
    named = zip(config.data.sources, images, strict=True)
    inputs = {f"images of {source.path}": files.files() for source, files in named}
    if resumes:
        check_inputs(config.output, inputs)
    else:
        remember_inputs(config.output, inputs)
    save_config(config, config.output / "config.yaml")


def load(
    checkpoint: Checkpoint,
    model: StudentTeacher,
    optimiser: torch.optim.Optimizer,
    scale: LossScale | None,
    watch: EpochWatch,
    accelerator: Accelerator,
) -> None:
    """Put a checkpoint into model, optimiser, scale and what was watched in its epoch."""
    weights, state, watched = (
        in_all(accelerator, functools.partial(checkpoint.tensors, group))
        for group in ("weights", "optimiser", "watch")
    )
    restore_tensors(model.state_dict().items(), weights)
    restore_optimiser(model.student.named_parameters(), optimiser, state)
    if scale is not None:
        scale.load_state(dict(in_all(accelerator, lambda: checkpoint.tensors("scale"))))
    if accelerator.is_main_process:  # its sums are added up over the processes
        watch.load_state(dict(watched))


def build_model(
    config: PretrainingConfig, accelerator: Accelerator
) -> tuple[StudentTeacher, PreTrainedConfig]:
    """Return student and teacher, in every process or split over them, and the backbone's sizes."""
    device, processes, say = accelerator.device, accelerator.num_processes, accelerator.print
    torch.manual_seed(config.seed)
    kernels = choose(config.kernels, device)
    backbone = build_backbone(
        config.backbone, kernels, config.compile, config.gradient_checkpointing
    )
    config.check_crop_sizes(backbone.config.patch_size)
    if device.type != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
    compute_dtype = COMPUTE_DTYPES[config.precision]
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
    say(f"kernels           {kernels}{', compiled' if config.compile else ''}")
    say(f"parameters        {sum(p.numel() for p in model.student.parameters()):,} in the student")
    say(f"heads             {describe_heads(config, loaded)}")
    if sharded:
        shard(model, compute_dtype)
    elif processes > 1:
        model.student = accelerator.prepare_model(model.student)
    return model, backbone.config


def _take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def crop_batches(
    config: PretrainingConfig,
    sources: list[ImageSource],
    order: DrawOrder,
    schedules: Schedules,
    step: int,
    backbone_config: PreTrainedConfig,
    accelerator: Accelerator,
) -> Generator[Batch]:
    """Yield this process's batches from a step to the end of the run, phase by phase."""
    while step < schedules.steps:
        phase = Phase(config, schedules, step)
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
            worker_init_fn=calm_worker if config.data.workers else None,
            pin_memory=accelerator.device.type == "cuda",
        )
        for batch in loader:
            yield batch.to(accelerator.device)
        step = phase.last_step


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
    scale: LossScale | None,
    batches: Iterable[ModelInputs],
    values: StepValues,
    phase: "Phase",
    watch: EpochWatch,
    accelerator: Accelerator,
) -> dict[str, Tensor]:
    """Take one step of student and teacher and return this process's figures, [] each.

    Nothing is read back from the device.
    """
    apply_step_values(optimiser, values)
    means: dict[str, Tensor] = {}
    for number, inputs in enumerate(batches, start=1):
        with gradient_exchange(accelerator, model.student, last=number == phase.accumulate):
            losses = model(*inputs, values.teacher_temperature)
            share = losses.total / phase.accumulate
            accelerator.backward(share if scale is None else scale.scaled(share))
        watch.add(losses.targets, losses.features)
        figures = {
            "total loss": losses.total.detach(),
            **{f"{name} loss": value for name, value in losses.parts.items()},
            "divergence": losses.divergence,
            **signs(losses.targets, losses.features),
        }
        for name, value in figures.items():
            means[name] = means.get(name, 0) + value / phase.accumulate
    if scale is not None:
        scale.unscale(model.student.parameters())
    means["gradient"] = clip_gradient(model.student, config.optimiser.clip, accelerator)
    if scale is not None:
        means |= scale.step(optimiser, means["gradient"])
    else:
        drop_broken_gradient(model.student.parameters(), means["gradient"])
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    model.update_teacher(values.momentum)
    return means


def clip_gradient(student: torch.nn.Module, clip: float | None, accelerator: Accelerator) -> Tensor:
    """Clip the gradient of backbone and heads, each by itself; the norm of all before, []."""
    norms = []
    for part in accelerator.unwrap_model(student).children():
        parameters = [p for p in part.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        if clip is not None:
            clip_grads_with_norm_(parameters, clip, norm)
        norms.append(whole(norm))
    return torch.stack(norms).norm()


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
    """Return the images of one source."""
    data = config.data
    images: ImageSource
    if source.path.suffix in MANIFESTS:
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
    return images


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
    run_program(main, PretrainingConfig, ARGUMENTS.config, ARGUMENTS.overrides)
