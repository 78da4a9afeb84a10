r"""Train a report model on a frozen image encoder: the adapter first, then the LLM with it.

A third stage, reinforce, learns from what the model's own reports are worth.

    python training/train_report.py smollm2_mini \
        encoder=runs/encoder data.sources='[nih.jsonl, covid.jsonl]'

    accelerate launch --config_file configs/accelerate/ddp.yaml training/train_report.py ...
    torchrun --nproc_per_node 2 training/train_report.py ...     # on several CPU processes

configs/accelerate holds one launcher configuration for each way to spread a model over GPUs: ddp,
fsdp2, zero2 and zero3 (DeepSpeed), multinode. sharding= of the run says the same where torchrun
starts the processes.

Reads from top to bottom: studies and encoder, then for each stage the model, the samples, their
patch tokens, the optimiser, the loop and the model's folder. Started again with the same
configuration, a run that was stopped goes on where its last checkpoint is and gives the same
result as if it had never stopped. Ctrl-C or SIGTERM finish the step and write a checkpoint first.
"""

if __name__ == "__main__":  # --help ends here, before anything heavy is imported
    from llava_rad.ending import leave_quietly

    leave_quietly()

    from llava_rad.cli.training import read_arguments

    ARGUMENTS = read_arguments(__doc__, "training/train_report.py", "report")

from collections.abc import Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from llava_rad.config import save_config, to_dict
from llava_rad.encoders import ImageEncoder, load_encoder
from llava_rad.errors import TrainingError
from llava_rad.features import FeatureStore
from llava_rad.report_training.batches import TrainingBatches, batch_order, load_batches
from llava_rad.report_training.building import (
    build_in_all,
    check_saved,
    stage_prompt,
    whole_model,
)
from llava_rad.report_training.config import STAGES, ReinforceConfig, ReportTrainingConfig
from llava_rad.report_training.features import fill_store, open_store
from llava_rad.report_training.imitation import Imitation
from llava_rad.report_training.launching import agree, start_accelerator
from llava_rad.report_training.learner import Learner
from llava_rad.report_training.progress import Meter, draw_curve, progress_line
from llava_rad.report_training.readable import check_readable
from llava_rad.report_training.reinforcement import Reinforcement
from llava_rad.report_training.reward_workers import RewardWorkers, reward_workers
from llava_rad.report_training.sample_reports import write_sample_reports
from llava_rad.report_training.samples import ReportSamples
from llava_rad.report_training.schedule import learning_rate, steps_of
from llava_rad.report_training.sharding import distribute
from llava_rad.report_training.state import (
    optimiser_tensors,
    restore_optimiser,
    restore_weights,
    trained_parameters,
    trained_tensors,
    whole_trained_tensors,
)
from llava_rad.report_training.studies import RunStudies, load_studies
from llava_rad.runs.checkpoints import FOLDER, Checkpoint, CheckpointWriter, find_resumable
from llava_rad.runs.checks import UnreadSteps, check_changed, sums_of
from llava_rad.runs.curves import Pace
from llava_rad.runs.inputs import check_inputs, remember_inputs
from llava_rad.runs.launch import run_program
from llava_rad.runs.log import RunLog
from llava_rad.runs.parts import Gathered
from llava_rad.runs.stopping import Interrupted, StepBorder
from llava_rad.runs.together import in_all, on_main, owned_folder

# Compiled layers see few lengths: those of a batch are padded to a multiple.
COMPILED_LENGTHS = 64


def main(config: ReportTrainingConfig) -> None:
    """Run the stages of a training."""
    config = agree(config)
    accelerator = start_accelerator(config)
    say, processes = accelerator.print, accelerator.num_processes
    say(
        f"processes         {processes} on {accelerator.device.type}, {config.precision}, "
        f"sharding {config.sharding_over(processes)}"
    )
    if config.processes not in (None, processes):
        raise TrainingError(
            f"the run is meant for {config.processes} processes, {processes} started",
            where="processes",
            remedy=f"Start it with torchrun --nproc_per_node {config.processes} "
            "(accelerate launch starts only one on a CPU)",
            kind="wrong_processes",
        )

    with owned_folder(config.output, accelerator), reward_workers(config, accelerator) as workers:
        studies = in_all(accelerator, lambda: load_studies(config.data))
        say(f"studies           {studies.summary()}")
        prompts = {stage: stage_prompt(config, stage)[0].to_dict() for stage in config.stages}
        decides = {**config.decides_weights(), "rendered prompt": prompts}
        checkpoint = find_resumable(
            config.output / FOLDER,
            decides,
            studies.hashes,
            accelerator,
            allowed=config.resume == "auto",
        )
        on_main(accelerator, lambda: open_run(config, studies, resumes=checkpoint is not None))
        encoder = load_encoder(
            config.encoder, revision=config.encoder_revision, device=accelerator.device
        )
        say(f"encoder           {encoder.name}: {encoder.num_tokens} tokens of {encoder.dim}")
        store = in_all(accelerator, lambda: open_store(config, encoder))
        in_all(
            accelerator,
            lambda: check_readable(
                studies, config.data, encoder, config.output, store, accelerator
            ),
        )
        accelerator.init_trackers("trackers")
        border = StepBorder(accelerator)

        start = config.start
        for stage in config.stages:
            folder = config.output / stage
            if checkpoint and STAGES.index(checkpoint.stage) > STAGES.index(stage):
                say(f"{stage} was done before: {folder}")
            else:
                train_stage(
                    config,
                    stage,
                    accelerator,
                    border,
                    studies,
                    encoder,
                    store if config.stores_features(stage, accelerator.device.type) else None,
                    start,
                    checkpoint,
                    decides,
                    workers,
                )
                checkpoint = None  # belongs to this stage only
            start = folder
        accelerator.end_training()


def open_run(config: ReportTrainingConfig, studies: RunStudies, *, resumes: bool) -> None:
    """See that a run goes on with the same images; its folder then says what it is run with."""
    inputs = {"images": studies.image_files()}
    if resumes:
        check_inputs(config.output, inputs)
    else:
        remember_inputs(config.output, inputs)
    save_config(config, config.output / "config.yaml")


def train_stage(
    config: ReportTrainingConfig,
    stage: str,
    accelerator: Accelerator,
    border: StepBorder,
    studies: RunStudies,
    encoder: ImageEncoder,
    store: FeatureStore | None,
    start: Path | None,
    checkpoint: Checkpoint | None,
    decides: dict[str, Any],
    workers: RewardWorkers | None,
) -> None:
    """Train one stage and write its model to ``output/STAGE``."""
    settings, seed = config.of(stage), (config.seed, STAGES.index(stage))
    say, processes = accelerator.print, accelerator.num_processes
    accumulate = settings.accumulate(processes)
    accelerator.gradient_accumulation_steps = accumulate
    accelerator.step = 0

    # 1. The model: what is not trained is frozen.
    report_model = build_in_all(config, stage, encoder, accelerator, start=start)
    processor = report_model.processor
    trained = sum(p.numel() for p in trained_parameters(report_model))
    say(f"\n{stage}: {trained:,} trained parameters, {processor.tokens_per_image} tokens an image")

    # 2. Tokenised samples, and the order in which the steps take them.
    samples = ReportSamples(
        studies.train,
        processor,
        config.data.max_length,
        config.data.dropout,
        seed,
        augment=config.data.augment,
        workers=config.data.workers,
    )
    validation = None
    if len(studies.validation):
        validation = ReportSamples(
            studies.validation, processor, config.data.max_length, workers=config.data.workers
        )
    say(f"samples           {samples.summary()}")
    epoch_studies = sum(samples.weights)
    steps = steps_of(epoch_studies, settings.epochs, settings.batch_size)
    epoch_steps = steps_of(epoch_studies, 1, settings.batch_size)
    order = batch_order(samples, stage, settings.batch_size, steps)
    say(f"length            {steps} steps of {settings.batch_size} studies, {epoch_steps} an epoch")

    # 3. Patch tokens: computed once, or images read and encoded in every step.
    if store is not None:
        fill_store(store, [s for s in (samples, validation) if s is not None], accelerator)
    images = store or encoder.preprocessing

    # 4. Go on from the checkpoint.
    step = 0
    first_weights = [
        parameter.detach().clone()
        for parameter in trained_parameters(report_model)
        if stage == "reinforce"
    ]
    if checkpoint is not None:
        step = checkpoint.step
        restore_weights(report_model, in_all(accelerator, lambda: checkpoint.tensors("weights")))
        say(f"resuming          at step {step} from {checkpoint.path}")

    # 5. Optimiser, and both spread over the processes. The learning rate is a function of the step.
    sharding = config.sharding_over(processes)
    model, optimiser = distribute(
        report_model, settings, accelerator, sharding, bf16=config.precision == "bf16"
    )
    plain_model, plain_optimiser = accelerator.unwrap_model(model), optimiser.optimizer
    if checkpoint is not None:
        kept = in_all(accelerator, lambda: checkpoint.tensors("optimiser"))
        restore_optimiser(plain_model, plain_optimiser, kept)
    passes = TrainingBatches(
        samples,
        order,
        settings.micro_batch,
        accumulate,
        accelerator.process_index,
        processes,
        images,
        multiple=COMPILED_LENGTHS if config.compile else 1,
    )
    batches = load_batches(
        passes,
        range(step * accumulate, steps * accumulate),
        images,
        config.data.workers,
        pin=accelerator.device.type == "cuda",
    )
    learner: Learner
    if isinstance(settings, ReinforceConfig):
        assert workers is not None
        learner = Reinforcement(
            model,
            plain_model,
            optimiser,
            accelerator,
            settings,
            config.seed,
            passes,
            validation,
            images,
            workers,
            first_weights,
        )
    else:
        learner = Imitation(
            model,
            optimiser,
            accelerator,
            stage,
            settings,
            validation,
            images,
            config.data.workers,
        )
    if checkpoint is not None:
        in_all(accelerator, lambda: learner.chosen.restore(checkpoint))
    log = RunLog(config.output, stage, step, STAGES, accelerator)
    checkpoints = CheckpointWriter(
        config.output / FOLDER,
        accelerator,
        keep=config.keep_checkpoints,
        background=config.async_checkpoints,
    )

    meter, pictures = Meter(steps, step), Pace()
    unread = UnreadSteps(
        accelerator,
        "Start again in another output with a lower lr, or precision=fp32, or without these "
        "studies",
    )

    def read_back() -> list[dict[str, float]]:
        """Loss and gradient of the steps since the last call, checked."""
        found = unread.read()
        meter.add_losses([figures["loss"] for figures in found])
        return found

    def save() -> None:
        read_back()
        tensors: dict[str, Mapping[str, Tensor | Gathered]] = {
            "weights": trained_tensors(plain_model),
            "optimiser": optimiser_tensors(plain_model, plain_optimiser),
            "chosen": learner.chosen.tensors,
        }
        facts = {
            "settings": decides,
            "manifests": studies.hashes,
            "chosen": learner.chosen.facts,
        }
        # A run must not fail hours later for its first checkpoint.
        checkpoints.save(stage, step, tensors, facts, check=step == 1)

    def next_lessons() -> list[Any]:
        return learner.lessons(step, [next(batches) for _ in range(accumulate)])

    def count(lessons: list[Any]) -> list[int]:
        return learner.count(lessons)

    def validate() -> dict[str, float]:
        figures = learner.validate(step)
        if figures:
            said = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            say(f"{stage} {step}/{steps}  {said.replace('_', ' ')}")
            log.write(step, **figures)
            if accelerator.is_main_process and pictures.due():
                draw_curve(config.output, config)
        learner.train_mode()
        return figures

    # 6. The loop.
    if step == 0:
        with meter.paused():
            validate()
    at_start = sums_of(trained_parameters(plain_model))
    saved_at = step
    learner.train_mode()
    with checkpoints, border, closing(batches):
        while step < steps:
            lessons = border.cross(next_lessons, count)
            if border.signal:
                if saved_at < step:
                    save()
                checkpoints.settle()
                raise Interrupted(border.signal)
            lr = learning_rate(step, steps, settings.lr, settings.warmup)
            for group in optimiser.param_groups:
                group["lr"] = lr
            # Dropout depends on the step alone, so that a resumed run draws the same. The loader
            # draws from the same generator when it starts.
            torch.manual_seed(hash((*seed, step, accelerator.process_index)))

            targets, tokens, slots = border.counts
            outcome = learner.learn(lessons, targets)
            unread.add(
                step,
                {"loss": outcome.loss, "gradient": outcome.norm},
                outcome.losses,
                [lesson.study_ids for lesson in lessons],
            )
            step += 1

            # 7. Log, validate, save.
            meter.add(targets, settings.batch_size, tokens, slots)
            # One after the first step, so that a run does not fail hours later on its first.
            saves = step % config.checkpoint_steps == 0 or step in (1, steps)
            logs = step % config.log_steps == 0 or step in (1, steps)
            last_read = read_back() if saves or logs else []
            if logs:
                checkpoints.settle(wait=False)
                norm = last_read[-1]["gradient"]
                figures = {"lr": lr, "gradient_norm": norm, **meter.figures(step)}
                figures |= learner.figures()
                say(progress_line(stage, step, steps, figures))
                log.write(step, **figures)
            with meter.paused():
                if step % (config.validation_steps or epoch_steps) == 0 and step < steps:
                    validate()
                if config.sample_steps and step % config.sample_steps == 0 and validation:
                    page = config.output / "samples" / f"{stage}-{step:07d}.html"
                    scores: dict[str, float] = {}
                    if accelerator.is_main_process:
                        with accelerator.autocast():
                            scores = write_sample_reports(
                                page, plain_model, validation, config.sample_count, images
                            )
                    log.write(step, **{f"sample/{name}": value for name, value in scores.items()})
                    learner.train_mode()
                    say(f"{stage} {step}/{steps}  sample reports {page}")
                if saves:
                    save()
                    saved_at = step

    # 8. The model's folder, read back and compared.
    if checkpoint is None or checkpoint.step < steps:
        check_changed(at_start, sums_of(trained_parameters(plain_model)))
    validated = validate()
    if accelerator.is_main_process:
        draw_curve(config.output, config)
    learner.chosen.put(plain_model.trainable_parameters())
    if learner.chosen.facts:
        say(
            "chosen            step {chosen_step}: {chosen_value:.4f}".format(
                **learner.chosen.facts
            )
        )
    facts = {
        "stage": stage,
        "manifests": studies.hashes,
        "studies": len(samples),
        "steps": steps,
        **validated,
        **learner.chosen.facts,
        "processes": processes,
        "settings": {**config.facts(), **to_dict(settings)},
        "versions": {name: version(name) for name in ("llava-rad", "torch", "transformers")},
    }
    weights = plain_model.trainable_parameters()
    if sharding != "none":
        weights = whole_trained_tensors(plain_model, keep=accelerator.is_main_process)

    def write_model() -> None:
        model = plain_model
        if sharding != "none":
            model = whole_model(config, stage, encoder, weights, plain_model)
        model.save_pretrained(config.output / stage, training=facts)
        check_saved(config.output / stage, weights)

    on_main(accelerator, write_model)
    say(f"{stage} model      {config.output / stage}")
    accelerator.free_memory()


if __name__ == "__main__":
    run_program(main, ReportTrainingConfig, ARGUMENTS.config, ARGUMENTS.overrides)
