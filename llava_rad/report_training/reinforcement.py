"""Learning from what the model's own reports are worth: what reinforce does.

A step draws reports of its studies, has them scored by other processes, and makes each more or
less probable by what it is better or worse than. What is drawn depends on the seed, the draw of
the study within the run and the sample's number alone, so a resumed run and a run on more
processes draw the same. The model is in evaluation mode all the time: with dropout the
probabilities of what was drawn would be other ones than it was drawn with.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_rad.errors import ConfigError
from llava_rad.kernels.token_loss import token_losses
from llava_rad.model import IGNORE, ReportModel, Sample
from llava_rad.report_training.batches import (
    Images,
    MicroBatch,
    TrainingBatches,
    collate,
    count_tokens,
    load_batches,
)
from llava_rad.report_training.chosen import Chosen
from llava_rad.report_training.config import ReinforceConfig
from llava_rad.report_training.policy_loss import (
    grpo_advantages,
    kl_to_start,
    policy_losses,
    scst_advantages,
    token_shares,
)
from llava_rad.report_training.reward_workers import RewardWorkers, Scored
from llava_rad.report_training.rewards import mixed
from llava_rad.report_training.samples import ReportSample, ReportSamples
from llava_rad.report_training.state import trained_parameters
from llava_rad.report_training.step import StepOutcome, take_step
from llava_rad.report_training.validation import WholeBatches
from llava_rad.report_training.writing import Written, write
from llava_rad.reports.generate import GenerationSettings
from llava_rad.runs.order import by_length
from llava_rad.runs.together import gathered, in_all, on_main


@dataclass
class Lesson:
    """Reports that were drawn for the studies of one forward pass, and what they are worth.

    Attributes:
        batch: prompts and reports, a row a report, those of a study together.
        advantages: what each is better than its baseline, [rows].
        told: what the log says of each study.
        start: logarithms of the tokens' probabilities for the model at the start of the stage.
        before: the same for the model that drew them; None until the first update.
    """

    batch: MicroBatch
    advantages: Tensor
    told: list["_Told"]
    start: Tensor | None = None
    before: Tensor | None = None

    @property
    def study_ids(self) -> list[str]:
        """Studies of the rows."""
        return self.batch.study_ids


@dataclass(frozen=True)
class _Told:
    """What the log says of one study.

    Attributes:
        texts: of its samples.
        lengths: in tokens.
        stopped: samples that end by themselves.
        reward: of each sample.
        parts: of the rewards.
        greedy: reward of the greedy report, if one was written.
        equal: samples whose advantage is 0.
    """

    texts: list[str]
    lengths: list[int]
    stopped: int
    reward: list[float]
    parts: dict[str, list[float]]
    greedy: float | None
    equal: int


class Reinforcement:
    """Learns from rewards.

    Args:
        model: spread over the processes.
        plain: the model itself.
        optimiser: Accelerate's.
        accelerator: that all processes share.
        settings: of the stage.
        seed: of the draws.
        batches: the training studies as the forward passes take them.
        validation: the split that chooses, if there is one.
        images: where those of the studies come from.
        workers: that score reports.
        start: values of the trained parameters at the start of the stage.

    Attributes:
        chosen: the weights that are the best on validation so far.
    """

    def __init__(
        self,
        model: Any,
        plain: ReportModel,
        optimiser: Any,
        accelerator: Accelerator,
        settings: ReinforceConfig,
        seed: int,
        batches: TrainingBatches,
        validation: ReportSamples | None,
        images: Images,
        workers: RewardWorkers,
        start: Sequence[Tensor],
    ) -> None:
        self._model, self._plain, self._optimiser = model, plain, optimiser
        self._accelerator, self._settings = accelerator, settings
        self._batches, self._validation, self._images = batches, validation, images
        self._workers, self._start = workers, start
        length = settings.max_new_tokens
        self._greedy = GenerationSettings(max_new_tokens=length)
        self._sampling = GenerationSettings(
            max_new_tokens=length, temperature=settings.temperature, seed=seed
        )
        self._steps: list[dict[str, float]] = []
        self.chosen = Chosen()

    def train_mode(self) -> None:
        """Make the model ready for :meth:`learn`: without any dropout."""
        self._plain.eval()
        for module in self._plain.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                # Else its activations would be kept; its parts stay in evaluation mode.
                module.training = True
                if isinstance(getattr(module, "dropout", None), float) and module.dropout:
                    raise ConfigError(
                        f"{type(module).__name__} has a dropout of its own, which is off here",
                        where="gradient_checkpointing",
                        remedy="Set gradient_checkpointing=false",
                    )

    # A step

    def lessons(self, step: int, batches: list[MicroBatch]) -> list[Lesson]:
        """Draw reports for the studies of this process, and have them scored."""
        self._plain.eval()
        drawn = []
        for place, batch in enumerate(batches):
            drawn.append(self._draw(step * len(batches) + place, batch))
        self.train_mode()
        return [self._lesson(*each, self._workers.answer()) for each in drawn]

    def count(self, lessons: Sequence[Lesson]) -> list[int]:
        """Tokens that were drawn, tokens without padding, and places with padding."""
        return count_tokens([lesson.batch for lesson in lessons])

    def _draw(
        self, number: int, batch: MicroBatch
    ) -> tuple[list[ReportSample], Tensor, list[Written]]:
        """Write the reports of a forward pass; the workers are asked what they are worth.

        Returns:
            The studies, patch tokens for each drawn report, and the reports: ``samples`` of each
            study, and behind them, where they are compared with, a greedy one of each.
        """
        data, count = self._batches.data, self._settings.samples
        samples, true, keys, places = [], [], [], []
        first = 0
        for index, draw in self._batches.drawn(number):
            sample = data.sample(index, draw)
            samples.append(sample)
            true.append(data.text(index))
            keys += [f"{sample.study_id} {draw} {n}" for n in range(count)]
            places += list(range(first, first + len(sample.paths))) * count
            first += len(sample.paths)
        patches = self._patches(batch)
        requests = [sample.request for sample in samples]
        repeated = [request for request in requests for _ in range(count)]
        wanted = [text for text in true for _ in range(count)]
        with self._accelerator.autocast():
            written = write(self._plain, repeated, patches[places], self._sampling, keys)
            if self._settings.method == "scst":
                written += write(self._plain, requests, patches, self._greedy)
                wanted += true
        self._workers.ask([report.text for report in written], wanted)
        return samples, patches[places], written

    def _lesson(
        self,
        samples: list[ReportSample],
        patches: Tensor,
        written: list[Written],
        scored: Scored,
    ) -> Lesson:
        count, studies = self._settings.samples, len(samples)
        worth = torch.from_numpy(mixed(scored.parts, self._settings.rewards))
        rewards, greedy = worth[: studies * count].view(studies, count), worth[studies * count :]
        if self._settings.method == "scst":
            advantages = scst_advantages(rewards, greedy)
        else:
            advantages = grpo_advantages(rewards)
        repeated = [sample for sample in samples for _ in range(count)]
        rows = [
            replace(sample, tokens=_with_report(sample.tokens, report.tokens))
            for sample, report in zip(repeated, written[: len(repeated)], strict=True)
        ]
        batch = collate(rows, self._batches.data, None, self._batches.multiple)
        batch.patches = patches
        told = []
        for study in range(studies):
            own = slice(study * count, (study + 1) * count)
            told.append(
                _Told(
                    texts=[report.text for report in written[own]],
                    lengths=[len(report.tokens) for report in written[own]],
                    stopped=sum(report.stopped for report in written[own]),
                    reward=rewards[study].tolist(),
                    parts={name: values[own].tolist() for name, values in scored.parts.items()},
                    greedy=float(greedy[study]) if len(greedy) else None,
                    equal=int((advantages[study].abs() < 1e-9).sum()),
                )
            )
        return Lesson(batch, advantages.flatten().float(), told)

    def learn(self, lessons: Sequence[Lesson], targets: int) -> StepOutcome:
        """``updates`` optimiser steps on the same reports.

        Args:
            lessons: of this process, one a forward pass.
            targets: tokens that were drawn, in all processes.
        """
        settings, device = self._settings, self._accelerator.device
        if settings.kl:
            with self._at_start(), torch.no_grad(), self._accelerator.autocast():
                for lesson in lessons:
                    lesson.start = self._logs(lesson.batch)

        def loss(lesson: Lesson) -> Tensor:
            logs = self._logs(lesson.batch)
            if lesson.before is None:
                lesson.before = logs.detach()
            shares = token_shares(
                _is_target(lesson.batch).to(device),
                settings.method,
                settings.batch_size * settings.samples,
                settings.max_new_tokens,
            )
            losses = policy_losses(
                logs,
                lesson.before,
                lesson.advantages.to(device),
                clip_ratio=settings.clip_ratio,
                start=lesson.start,
                kl=settings.kl,
            )
            return (losses * shares).sum()

        outcomes = [
            take_step(
                self._model, self._optimiser, self._accelerator, lessons, loss, clip=settings.clip
            )
            for _ in range(settings.updates)
        ]
        self._tell(lessons, targets)
        return StepOutcome(
            torch.stack([outcome.loss for outcome in outcomes]).mean(),
            torch.stack([outcome.norm for outcome in outcomes]).max(),
            [
                torch.stack(of_pass).sum()
                for of_pass in zip(*(o.losses for o in outcomes), strict=True)
            ],
        )

    def _logs(self, batch: MicroBatch) -> Tensor:
        """Logarithms of the probabilities of a batch's tokens, [rows, target columns]."""
        out = self._model(**batch.model_inputs(self._accelerator.device))
        wanted = batch.labels[:, 1:][:, batch.target_columns].to(out.logits.device)
        logits = out.logits
        if self._settings.temperature != 1:
            logits = logits / self._settings.temperature
        return -token_losses(logits.flatten(0, 1), wanted.flatten(), IGNORE).view(wanted.shape)

    @contextlib.contextmanager
    def _at_start(self) -> Iterator[None]:
        """The weights that the stage has started from, in place of those of now."""
        parameters = trained_parameters(self._plain)
        now = [parameter.detach().clone() for parameter in parameters]
        _fill(parameters, self._start)
        try:
            yield
        finally:
            _fill(parameters, now)

    def _patches(self, batch: MicroBatch) -> Tensor:
        """Patch tokens of a batch's images, on the device."""
        if batch.patches is not None:
            return batch.patches.to(self._plain.device)
        assert batch.pixel_values is not None
        with self._accelerator.autocast():
            return self._plain.encode_images(batch.pixel_values)

    # What is told

    def _tell(self, lessons: Sequence[Lesson], targets: int) -> None:
        """Note what the log says of a step, over all processes."""
        distance = 0.0
        for lesson in lessons:
            if lesson.start is not None and lesson.before is not None:
                kept = _is_target(lesson.batch).to(lesson.start.device)
                distance += float((kl_to_start(lesson.before, lesson.start) * kept).sum())
        own = ([told for lesson in lessons for told in lesson.told], distance)
        everyones = gathered(self._accelerator, own)
        told = [one for part, _ in everyones for one in part]
        texts = [text for one in told for text in one.texts]
        figures = {
            "reward": float(np.mean([one.reward for one in told])),
            **{
                f"reward/{name}": float(np.mean([one.parts[name] for one in told]))
                for name in told[0].parts
            },
            "zero_advantage": sum(one.equal for one in told) / len(texts),
            "length": float(np.mean([one.lengths for one in told])),
            "stopped": sum(one.stopped for one in told) / len(texts),
            "distinct": len(set(texts)) / len(texts),
        }
        greedy = [one.greedy for one in told if one.greedy is not None]
        if greedy:
            figures["baseline"] = float(np.mean(greedy))
        if self._settings.kl:
            figures["kl"] = sum(part for _, part in everyones) / targets
        self._steps.append(figures)

    def figures(self) -> dict[str, float]:
        """Means over the steps since the last call of what the log says of each."""
        steps, self._steps = self._steps, []
        return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}

    # Validation

    def validate(self, step: int) -> dict[str, float]:
        """What greedy reports on the validation split are worth; the best weights are kept.

        Nothing without a validation split: then the last weights are the stage's.
        """
        if self._validation is None:
            return {}
        self._plain.eval()
        own = in_all(self._accelerator, self._write_validation)
        reports = {index: one for part in gathered(self._accelerator, own) for index, one in part}
        figures, value = on_main(self._accelerator, lambda: self._judge(reports))
        self.chosen.offer(self._plain.trainable_parameters(), step, value, figures)
        return figures

    def _write_validation(self) -> list[tuple[int, Written]]:
        """Greedy reports of this process's share of the validation split, by their places."""
        data = self._validation
        assert data is not None
        accelerator = self._accelerator
        size = self._settings.micro_batch * self._settings.samples
        batches = WholeBatches(data, by_length(data.lengths, size), self._images)
        numbers = range(accelerator.process_index, len(batches.places), accelerator.num_processes)
        found: list[tuple[int, Written]] = []
        loaded = load_batches(batches, numbers, self._images, 0)
        for number, batch in zip(numbers, loaded, strict=True):
            places = batches.places[number]
            requests = [data.sample(index).request for index in places]
            patches = self._patches(batch)
            with accelerator.autocast():
                written = write(self._plain, requests, patches, self._greedy)
            found += zip(places, written, strict=True)
        return found

    def _judge(self, reports: Mapping[int, Written]) -> tuple[dict[str, float], float]:
        """Figures of the validation split's reports, and the value that chooses."""
        data = self._validation
        assert data is not None
        texts = [reports[index].text for index in range(len(data))]
        true = [data.text(index) for index in range(len(data))]
        chooses = self._settings.choose_by
        self._workers.ask(texts, true, over_all=chooses != "reward")
        scored = self._workers.answer()
        figures = {
            "reward": float(mixed(scored.parts, self._settings.rewards).mean()),
            **{f"reward/{name}": float(values.mean()) for name, values in scored.parts.items()},
            "length": float(np.mean([len(report.tokens) for report in reports.values()])),
            "stopped": float(np.mean([report.stopped for report in reports.values()])),
            "distinct": len(set(texts)) / len(texts),
        }
        if chooses != "reward":
            if chooses not in scored.values:
                metric = chooses.partition("/")[0]
                known = ", ".join(name for name in scored.values if name.startswith(metric))
                raise ConfigError(
                    f"{metric} has no value '{chooses}'",
                    where="reinforce.choose_by",
                    remedy=f"Choose among {known}",
                )
            figures[chooses] = scored.values[chooses]
        return {f"validation_{name}": value for name, value in figures.items()}, figures[chooses]


def _with_report(prompt: Sample, report: Sequence[int]) -> Sample:
    """A study's prompt with another report than the true one."""
    length = prompt.labels.count(IGNORE)
    ids, kept = prompt.input_ids[:length], prompt.labels[:length]
    return Sample([*ids, *report], [*kept, *report])


def _is_target(batch: MicroBatch) -> Tensor:
    """[rows, target columns], true where a token was drawn."""
    return batch.labels[:, 1:][:, batch.target_columns] != IGNORE


@torch.no_grad()
def _fill(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
