"""The third stage as users start it: rewards, kills, several processes, bad settings."""

import random
import time

import pytest
import torch
from helpers.program_runs import start_program
from helpers.training_runs import PROGRAM, metrics
from safetensors.torch import load_file

from llava_rad.model import ReportModel

REINFORCE = [
    "stage=reinforce",
    "data.dropout={indication: 0.3, current_lateral: 0.3, prior_frontal: 0.3}",
    "reinforce={method: grpo, rewards: {rules: 1, rouge_l: 0.5, length: 0.1}, epochs: 1.4, "
    "lr: 3e-3, batch_size: 4, micro_batch: 2, samples: 3, max_new_tokens: 12}",
]
SCST = ["reinforce.method=scst", "reinforce.kl=0", "reinforce.samples=2"]
FIGURES = ("reward", "reward/rules", "kl", "loss", "length", "validation_reward")


@pytest.fixture(scope="module")
def tuned(train_in, tmp_path_factory):
    """The model that the stage starts from."""
    folder = tmp_path_factory.mktemp("tuned")
    return train_in(folder, "run", "stage=finetune", "finetune.epochs=1")[0] / "finetune"


@pytest.fixture(scope="module")
def whole(train_in, tuned, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return train_in(folder, "run", *REINFORCE, f"start={tuned}")


def test_it_learns(whole):
    print(whole[1])
    for row in metrics(whole[0]):
        print(row)
