"""Number of steps and learning rate against closed forms."""

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from llava_rad.report_training.schedule import learning_rate, steps_of


@pytest.mark.parametrize(
    ("studies", "epochs", "batch", "expected"),
    [(100, 1, 10, 10), (101, 1, 10, 11), (10, 0.5, 5, 1), (3, 1, 64, 1), (7.5, 2, 4, 4)],
)
def test_steps_cover_every_study(studies, epochs, batch, expected):
    assert steps_of(studies, epochs, batch) == expected


def test_warm_up_is_a_line_that_ends_at_the_peak():
    rates = [learning_rate(step, 100, 2e-3, 0.1) for step in range(10)]
    assert rates == pytest.approx([2e-3 * (i + 1) / 10 for i in range(10)])


def test_decay_is_half_a_cosine():
    assert learning_rate(10, 110, 1.0, 10 / 110) == 1.0
    assert learning_rate(60, 110, 1.0, 10 / 110) == pytest.approx(0.5)
    assert learning_rate(109, 110, 1.0, 10 / 110) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * 0.99))
    )


def test_decay_is_that_of_transformers():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_cosine_schedule_with_warmup(optimiser, num_warmup_steps=3, num_training_steps=50)
    for step in range(50):
        # Theirs starts at 0, a step that learns nothing; ours a step further up the line.
        if step >= 3:
            ours = learning_rate(step, 50, 0.3, 3 / 50)
            assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_a_run_of_one_step_learns():
    assert learning_rate(0, 1, 1e-3, 0.03) == 1e-3
    assert learning_rate(0, 1, 1e-3, 0.0) == 1e-3
