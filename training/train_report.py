r"""Train a report model on a frozen image encoder: the adapter first, then the LLM with it.

    python training/train_report.py --config configs/report/smollm2_mini.yaml \
        encoder=runs/encoder/encoder data.sources='[{path: nih.jsonl}, {path: covid.jsonl}]'

    accelerate launch --config_file configs/accelerate/ddp.yaml training/train_report.py ...
    torchrun --nproc_per_node 2 training/train_report.py ...     # on several CPU processes

configs/accelerate holds one launcher configuration for each way to spread a model over GPUs: ddp,
fsdp2, zero2 and zero3 (DeepSpeed), multinode. sharding= of the run says the same where torchrun
starts the processes.

Reads from top to bottom: studies and encoder, then for each stage the model, the samples, their
patch tokens, the optimiser, the loop and the model's folder. Started again with the same
configuration, a run that was stopped goes on where its last checkpoint is and gives the same
result as if it had never stopped.
"""

import argparse
import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from llava_rad.config import load_config, save_config, to_dict
from llava_rad.encoders import ImageEncoder, load_encoder
from llava_rad.errors import LlavaRadError, TrainingError
from llava_rad.features import FeatureCache
from llava_rad.report_training.batches import (
    MicroBatch,
    TrainingBatches,
    count_tokens,
    load_batches,
)
from llava_rad.report_training.building import (
    build_stage_model,
    check_saved,
    stage_prompt,
    train_mode,
)
from llava_rad.report_training.config import STAGES, ReportTrainingConfig
from llava_rad.report_training.features import fill_cache
from llava_rad.report_training.launching import agree, start_accelerator
from llava_rad.report_training.readable import check_readable
from llava_rad.report_training.run_log import Meter, RunLog, draw_curve, progress_line
from llava_rad.report_training.sample_reports import write_sample_reports
from llava_rad.report_training.samples import ReportSamples
from llava_rad.report_training.schedule import learning_rate, steps_of
from llava_rad.report_training.sharding import distribute
from llava_rad.report_training.state import (
    optimiser_state,
    restore_optimiser,
    restore_weights,
    trained_parameters,
    trained_weights,
)
from llava_rad.report_training.studies import RunStudies, load_studies
from llava_rad.report_training.validation import validation_loss
from llava_rad.runs.checkpoints import Checkpoint, find_resumable, save_checkpoint
from llava_rad.runs.checks import check_changed, check_finite, sums_of
from llava_rad.runs.order import BatchOrder


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

    studies = load_studies(config.data)
    say(f"studies           {studies.summary()}")
    encoder = load_encoder(
        config.encoder, revision=config.encoder_revision, device=accelerator.device
    )
    say(f"encoder           {encoder.name}: {encoder.num_tokens} tokens of {encoder.dim}")
    check_readable(studies, config.data, encoder, config.output, accelerator)

    prompts = {stage: stage_prompt(config, stage)[0].to_dict() for stage in config.stages}
    decides = {**config.decides_weights(), "rendered prompt": prompts}
    checkpoint = find_resumable(
        config.output / "checkpoints",
        decides,
        studies.hashes,
        allowed=config.resume == "auto",
    )
    if accelerator.is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        save_config(config, config.output / "config.yaml")
    accelerator.init_trackers("trackers")

    start = config.start
    for stage in config.stages:
        folder = config.output / stage
        if checkpoint and STAGES.index(checkpoint.stage) > STAGES.index(stage):
            say(f"{stage} was done before: {folder}")
        else:
            train_stage(config, stage, accelerator, studies, encoder, start, checkpoint, decides)
            checkpoint = None  # belongs to this stage only
        start = folder
    accelerator.end_training()


def train_stage(
    config: ReportTrainingConfig,
    stage: str,
    accelerator: Accelerator,
    studies: RunStudies,
    encoder: ImageEncoder,
    start: Path | None,
    checkpoint: Checkpoint | None,
    decides: dict[str, Any],
) -> None:
    """Train one stage and write its model to ``output/STAGE``."""
    settings, seed = config.of(stage), (config.seed, STAGES.index(stage))
    say, processes = accelerator.print, accelerator.num_processes
    accumulate = settings.accumulate(processes)
    accelerator.gradient_accumulation_steps = accumulate
    accelerator.step = 0

    # 1. The model: what is not trained is frozen.
    report_model = build_stage_model(config, stage, encoder, start=start, device=accelerator.device)
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
    )
    validation = None
    if len(studies.validation):
        validation = ReportSamples(studies.validation, processor, config.data.max_length)
    say(f"samples           {samples.summary()}")
    epoch_studies = sum(samples.weights)
    steps = steps_of(epoch_studies, settings.epochs, settings.batch_size)
    epoch_steps = steps_of(epoch_studies, 1, settings.batch_size)
    order = BatchOrder(samples.weights, samples.length, settings.batch_size, steps, seed)
    say(f"length            {steps} steps of {settings.batch_size} studies, {epoch_steps} an epoch")

    # 3. Patch tokens: computed once, or images read and encoded in every step.
    cache = None
    if config.data.cache_features:
        cache = FeatureCache(config.data.cache_folder or config.output / "features", encoder)
        fill_cache(cache, [s for s in (samples, validation) if s is not None], accelerator)
    preprocessing = None if cache else encoder.preprocessing

    def inputs(batch: MicroBatch) -> dict[str, torch.Tensor]:
        if cache is not None:
            batch.patches = cache.read(batch.paths)
        return batch.model_inputs(accelerator.device)

    # 4. Go on from the checkpoint.
    step, state = 0, {}
    if checkpoint is not None:
        weights, state = checkpoint.tensors()
        restore_weights(report_model, weights)
        step = checkpoint.step
        say(f"resuming          at step {step} from {checkpoint.path}")

    # 5. Optimiser, and both spread over the processes. The learning rate is a function of the step.
    sharding = config.sharding_over(processes)
    model, optimiser = distribute(
        report_model, settings, accelerator, sharding, bf16=config.precision == "bf16"
    )
    plain_model, plain_optimiser = accelerator.unwrap_model(model), optimiser.optimizer
    if state:
        restore_optimiser(plain_model, plain_optimiser, state)
    batches = load_batches(
        TrainingBatches(
            samples,
            order,
            settings.micro_batch,
            accumulate,
            accelerator.process_index,
            processes,
            preprocessing,
        ),
        step * accumulate,
        steps * accumulate,
        workers=0 if cache else config.data.workers,
    )
    log = RunLog(config.output, stage, step, accelerator) if accelerator.is_main_process else None

    def validate() -> float | None:
        if validation is None:
            return None
        loss = validation_loss(
            model, validation, settings.micro_batch, inputs, accelerator, preprocessing
        )
        say(f"{stage} {step}/{steps}  validation loss {loss:.4f}")
        if log:
            log.write(step, validation_loss=loss)
            draw_curve(config.output)
        return loss

    # 6. The loop.
    if step == 0:
        validate()
    at_start = sums_of(trained_parameters(plain_model))
    meter = Meter(steps, step)
    train_mode(model, stage)
    while step < steps:
        lr = learning_rate(step, steps, settings.lr, settings.warmup)
        for group in optimiser.param_groups:
            group["lr"] = lr
        micro_batches = [next(batches) for _ in range(accumulate)]
        # Dropout depends on the step alone, so that a resumed run draws the same. The loader draws
        # from the same generator when it starts.
        torch.manual_seed(hash((*seed, step, accelerator.process_index)))

        study_ids = [i for batch in micro_batches for i in batch.study_ids]
        counts = count_tokens(micro_batches).to(accelerator.device)
        targets, tokens, slots = accelerator.reduce(counts, "sum").tolist()
        step_loss = torch.zeros((), device=accelerator.device)
        for batch in micro_batches:
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    out = model(**inputs(batch))
                check_finite("loss", out.loss, step, batch.study_ids)
                # Each token of the step's whole batch counts the same. Accumulation and the
                # average over processes divide, so their divisors come in here.
                loss = out.loss * (out.target_tokens / targets)
                accelerator.backward(loss * (accumulate * processes))
                step_loss += loss.detach()
                if accelerator.sync_gradients:
                    norm = torch.as_tensor(
                        accelerator.clip_grad_norm_(trained_parameters(plain_model), settings.clip)
                    )
                    check_finite("gradient", norm, step, study_ids)
                optimiser.step()
                optimiser.zero_grad()
        step += 1

        # 7. Log, validate, save.
        mean_loss = float(accelerator.reduce(step_loss, "sum"))
        meter.add(mean_loss, targets, settings.batch_size, tokens, slots)
        if step % config.log_steps == 0 or step in (1, steps):
            figures = {"lr": lr, "gradient_norm": float(norm), **meter.figures(step)}
            say(progress_line(stage, step, steps, figures))
            if log:
                log.write(step, **figures)
        with meter.paused():
            if step % (config.validation_steps or epoch_steps) == 0 and step < steps:
                validate()
                train_mode(model, stage)
            if config.sample_steps and step % config.sample_steps == 0 and validation and log:
                page = config.output / "samples" / f"{stage}-{step:07d}.html"
                with accelerator.autocast():
                    scores = write_sample_reports(
                        page, plain_model, validation, config.sample_count, inputs
                    )
                log.write(step, **{f"sample/{name}": value for name, value in scores.items()})
                train_mode(model, stage)
                say(f"{stage} {step}/{steps}  sample reports {page}")
            # One after the first step, so that a run does not fail hours later on its first.
            if step % config.checkpoint_steps == 0 or step in (1, steps):
                weights = trained_weights(plain_model)
                state = optimiser_state(plain_model, plain_optimiser)
                if accelerator.is_main_process:
                    save_checkpoint(
                        config.output / "checkpoints",
                        stage,
                        step,
                        weights,
                        state,
                        {"config": decides, "manifests": studies.hashes},
                        keep=config.keep_checkpoints,
                    )
                accelerator.wait_for_everyone()

    # 8. The model's folder, read back and compared.
    if checkpoint is None or checkpoint.step < steps:
        check_changed(at_start, sums_of(trained_parameters(plain_model)))
    facts = {
        "stage": stage,
        "manifests": studies.hashes,
        "studies": len(samples),
        "steps": steps,
        "validation_loss": validate(),
        "processes": processes,
        "settings": {**config.facts(), **to_dict(settings)},
        "versions": {name: version(name) for name in ("llava-rad", "torch", "transformers")},
    }
    weights = trained_weights(plain_model)
    if accelerator.is_main_process:
        folder = config.output / stage
        if sharding != "none":
            plain_model = build_stage_model(config, stage, encoder, start=start)
            restore_weights(plain_model, weights)
        plain_model.save_pretrained(folder, training=facts)
        check_saved(folder, weights)
        say(f"{stage} model      {folder}")
    accelerator.wait_for_everyone()
    accelerator.free_memory()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML of configs/report")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting")
    arguments = parser.parse_args()
    try:
        main(load_config(ReportTrainingConfig, arguments.config, arguments.overrides))
    except LlavaRadError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
