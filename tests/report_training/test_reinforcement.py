"""Learning from rewards within one process: what is drawn, its probabilities, what is chosen."""

from collections import deque

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from llava_rad.config import load_config
from llava_rad.encoders import load_encoder
from llava_rad.features import FeatureStore
from llava_rad.model import IGNORE
from llava_rad.report_training import ReportSamples, ReportTrainingConfig, TrainingBatches
from llava_rad.report_training.batches import batch_order
from llava_rad.report_training.building import build_stage_model
from llava_rad.report_training.reinforcement import Reinforcement
from llava_rad.report_training.reward_workers import Scored
from llava_rad.report_training.state import trained_parameters
from llava_rad.report_training.studies import load_studies

STEPS = 3


class Spaces:
    """In place of the workers: a report is worth its share of spaces."""

    def __init__(self):
        self.asked = deque()

    def ask(self, texts, true, *, over_all=False):
        assert len(texts) == len(true)
        worth = np.array([text.count(" ") / max(1, len(text)) for text in texts])
        self.asked.append(Scored({"rules": worth}, {}))

    def answer(self):
        return self.asked.popleft()


@pytest.fixture(scope="module")
def encoder(parts):
    return load_encoder(str(parts / "encoder"))


@pytest.fixture
def make(parts, encoder, tmp_path):
    """``make(*overrides) -> (learner, model, next batches)``"""

    def learner(*overrides):
        config = load_config(
            ReportTrainingConfig,
            None,
            [
                f"output={tmp_path}",
                f"llm={parts / 'llm'}",
                f"data.sources={parts / 'studies.jsonl'}",
                "data.images=[current_frontal, current_lateral]",
                "lora={r: 4, alpha: 8, dropout: 0.5}",
                "precision=fp32",
                "stage=reinforce",
                f"start={tmp_path}",
                "reinforce={rewards: {rules: 1}, batch_size: 4, micro_batch: 2, samples: 3}",
                "reinforce.max_new_tokens=10",
                *overrides,
            ],
        )
        settings = config.reinforce
        studies = load_studies(config.data)
        model = build_stage_model(config, "reinforce", encoder)
        data = [
            ReportSamples(split, model.processor, 512)
            for split in (studies.train, studies.validation)
        ]
        accumulate = settings.accumulate(1)
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        order = batch_order(data[0], "reinforce", settings.batch_size, STEPS)
        images = FeatureStore(parts / "features", encoder)
        images.fill([path for split in data for path in split.images()])
        passes = TrainingBatches(data[0], order, settings.micro_batch, accumulate, 0, 1, images)
        optimiser = torch.optim.AdamW(trained_parameters(model), lr=settings.lr)
        learner = Reinforcement(
            model,
            model,
            accelerator.prepare(optimiser),
            accelerator,
            settings,
            config.seed,
            passes,
            data[1],
            images,
            Spaces(),
            [parameter.detach().clone() for parameter in trained_parameters(model)],
        )
        return (
            learner,
            model,
            lambda step: [passes[step * accumulate + place] for place in range(accumulate)],
        )

    return learner


def learn(learner, batches, steps):
    figures = []
    for step in range(steps):
        lessons = learner.lessons(step, batches(step))
        learner.learn(lessons, learner.count(lessons)[0])
        figures.append(learner.figures())
    return figures


@pytest.mark.parametrize("method", ["scst", "grpo"])
def test_a_step_makes_better_reports_more_probable(make, method):
    learner, _, batches = make(
        "reinforce.lr=0.003", "reinforce.kl=0", "reinforce.updates=2", f"reinforce.method={method}"
    )
    lessons = learner.lessons(0, batches(0))
    learner.learn(lessons, learner.count(lessons)[0])
    for lesson in lessons:
        with torch.no_grad():
            gained = learner._logs(lesson.batch) - lesson.before
        assert lesson.advantages.abs().max() > 0
        assert (lesson.advantages * gained.sum(dim=1)).sum() > 0


def test_probabilities_are_those_of_the_model_without_dropout(make):
    """Those before an update, those of the start, and those that a pass without a mask gives."""
    learner, model, batches = make("reinforce.temperature=0.7", "reinforce.lr=0.02")
    learn(learner, batches, 1)
    lessons = learner.lessons(1, batches(1))
    before = [parameter.detach().clone() for parameter in trained_parameters(model)]
    expected = []
    for lesson in lessons:
        inputs = lesson.batch.model_inputs(torch.device("cpu"))
        labels = inputs.pop("labels")[:, 1:]
        inputs.pop("target_columns")
        with torch.no_grad():
            logs = (model.eval()(**inputs).logits[:, :-1] / 0.7).log_softmax(-1)
        own = logs.gather(-1, labels.clamp_min(0)[..., None]).squeeze(-1)
        expected.append(own.masked_fill(labels == IGNORE, 0))
    learner.learn(lessons, learner.count(lessons)[0])
    for lesson, logs in zip(lessons, expected, strict=True):
        columns = lesson.batch.target_columns
        assert torch.allclose(lesson.before, logs[:, columns], atol=1e-5)
        assert not torch.allclose(lesson.start, logs[:, columns], atol=1e-3)
        drawn = (lesson.batch.labels != IGNORE).sum(1).tolist()
        assert drawn == [n for told in lesson.told for n in told.lengths]
    changed = [
        not torch.equal(p, q) for p, q in zip(before, trained_parameters(model), strict=True)
    ]
    assert any(changed)


def test_the_start_is_where_the_distance_is_zero(make):
    learner, _, batches = make("reinforce.lr=0.02")
    first, second, *_ = learn(learner, batches, 2)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 1e-4


def test_what_is_drawn_depends_on_neither_the_batch_nor_what_was_drawn_before(make):
    learner, _, batches = make()
    whole = {
        study: told.texts
        for step in (0, 1)
        for lesson in learner.lessons(step, batches(step))
        for study, told in zip(lesson.study_ids[::3], lesson.told, strict=True)
    }
    other, _, batches = make("reinforce.micro_batch=4", "reinforce.samples=2")
    (lesson,) = other.lessons(1, batches(1))
    for study, told in zip(lesson.study_ids[::2], lesson.told, strict=True):
        assert told.texts == whole[study][:2]
    assert len({text for texts in whole.values() for text in texts}) > 12


def test_a_study_whose_reports_are_worth_the_same_changes_nothing(make):
    learner, model, batches = make("reinforce.kl=0")
    learner._workers.ask = lambda texts, true: learner._workers.asked.append(
        Scored({"rules": np.full(len(texts), 0.3)}, {})
    )
    before = [parameter.detach().clone() for parameter in trained_parameters(model)]
    lessons = learner.lessons(0, batches(0))
    outcome = learner.learn(lessons, learner.count(lessons)[0])
    assert learner.figures()["zero_advantage"] == 1
    assert outcome.norm.item() == 0
    # What AdamW's decay takes is nothing else.
    for old, new in zip(before, trained_parameters(model), strict=True):
        assert torch.allclose(old, new, rtol=1e-5, atol=0)


def test_the_weights_that_validate_best_are_kept(make):
    learner, model, batches = make("reinforce.lr=0.02")
    found = learner.validate(0)
    first = dict(learner.chosen.tensors)
    assert learner.chosen.facts == {
        "chosen_step": 0,
        "chosen_value": found["validation_reward"],
        **found,
    }
    learn(learner, batches, 1)
    learner._workers.ask = lambda texts, true, over_all: learner._workers.asked.append(
        Scored({"rules": np.zeros(len(texts))}, {})
    )
    assert found["validation_reward"] > learner.validate(1)["validation_reward"] == 0
    assert learner.chosen.facts["chosen_step"] == 0
    parameters = model.trainable_parameters()
    assert any(not torch.equal(first[name], p) for name, p in parameters.items())
    learner.chosen.put(parameters)
    assert all(torch.equal(first[name], p) for name, p in parameters.items())
