"""The third stage as users start it: what it leaves, kills, several processes, bad settings."""

import random
import time

import pytest
import torch
from helpers.program_runs import start_program
from helpers.training_runs import PROGRAM, metrics
from safetensors.torch import load_file

from llava_rad.model import ReportModel
from llava_rad.runs import find_checkpoints

pytestmark = pytest.mark.slow

GRPO = [
    "stage=reinforce",
    "lora={r: 4, alpha: 8, dropout: 0.1}",
    "reinforce={method: grpo, rewards: {rules: 1, rouge_l: 0.5, length: 0.1}, epochs: 1.4, "
    "lr: 3e-3, batch_size: 4, micro_batch: 2, samples: 3, max_new_tokens: 12, updates: 2}",
    "validation_steps=3",
]
SCST = ["reinforce.method=scst", "reinforce.kl=0", "reinforce.samples=2", "reinforce.updates=1"]


def weights(folder):
    """All trained tensors of a finished run."""
    files = [folder / "adapter.safetensors", folder / "lora" / "adapter_model.safetensors"]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def curve(folder):
    """Every figure of a run but those of its speed."""
    free = {"time", "studies_per_second", "tokens_per_second", "memory_gb", "seconds_left"}
    return [{k: v for k, v in row.items() if k not in free} for row in metrics(folder)]


@pytest.fixture(scope="module")
def tuned(train_in, tmp_path_factory):
    """The model that the stage starts from."""
    folder = tmp_path_factory.mktemp("tuned")
    return train_in(folder, "run", "stage=finetune", "finetune.epochs=0.5")[0] / "finetune"


@pytest.fixture(scope="module")
def whole(train_in, tuned, tmp_path_factory):
    """A run that nothing disturbed."""
    return train_in(tmp_path_factory.mktemp("whole"), "run", *GRPO, f"start={tuned}")


def test_it_leaves_the_model_that_validated_best_and_a_log_of_every_step(whole, tuned):
    folder, said = whole
    rows = metrics(folder)
    steps = [row for row in rows if "reward" in row]
    assert [row["step"] for row in steps] == list(range(1, 8))  # 18 studies, 1.4 epochs, 4 each
    for row in steps:
        parts = row["reward/rules"] + 0.5 * row["reward/rouge_l"] + 0.1 * row["reward/length"]
        assert row["reward"] == pytest.approx(parts)
        assert row.keys() > {"kl", "zero_advantage", "length", "stopped", "distinct", "loss"}
        assert "baseline" not in row
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert steps[1]["kl"] > 1e-5
    validated = {
        row["step"]: row["validation_reward"] for row in rows if "validation_reward" in row
    }
    assert list(validated) == [0, 3, 6, 7]
    model = ReportModel.from_pretrained(folder / "reinforce")
    facts = model.config.training
    best = max(validated, key=validated.get)
    assert facts["chosen_step"] == best
    assert facts["chosen_value"] == facts["validation_reward"] == validated[best]
    assert f"chosen            step {best}" in said
    chosen, start = weights(folder / "reinforce"), weights(tuned)
    same = all(torch.equal(chosen[name], start[name]) for name in start)
    assert same == (best == 0)
    assert (folder / "loss.png").stat().st_size > 1000


def test_all_three_stages_follow_one_another(train):
    folder, _ = train("run", *GRPO, *SCST, "stage=all", "align.epochs=0.2", "finetune.epochs=0.2")
    stages = dict.fromkeys(row["stage"] for row in metrics(folder))
    assert list(stages) == ["align", "finetune", "reinforce"]
    last = [row for row in metrics(folder) if "baseline" in row][-1]
    assert last["stage"] == "reinforce" and "kl" not in last
    assert find_checkpoints(folder / "checkpoints")[-1].stage == "reinforce"
    ReportModel.from_pretrained(folder / "reinforce")


def test_killed_at_some_moments_it_ends_with_the_same_weights(
    whole, tuned, train, settings, tmp_path
):
    draws = random.Random(0)
    folder = tmp_path / "killed"
    arguments = [str(tmp_path / "empty.yaml"), f"output={folder}", *settings, *GRPO]
    for target in (1, 4, 7):
        (process,) = start_program(
            PROGRAM, [*arguments, f"start={tuned}", "checkpoint_steps=2"], tmp_path / "log"
        )
        while process.is_alive() and len(metrics(folder)) < target:
            time.sleep(0.002)
        process.join(draws.uniform(0, 0.5))
        process.kill()
        process.join()
    _, said = train("killed", *GRPO, f"start={tuned}", "checkpoint_steps=2")
    assert "resuming" in said
    assert curve(folder) == curve(whole[0])
    expected = weights(whole[0] / "reinforce")
    for name, tensor in weights(folder / "reinforce").items():
        assert torch.equal(tensor, expected[name]), name


def test_two_processes_draw_and_learn_what_one_does(whole, tuned, train):
    folder, _ = train("two", *GRPO, f"start={tuned}", "processes=2", processes=2)
    found, expected = curve(folder), curve(whole[0])
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for name in row.keys() - {"stage"}:
            assert row[name] == pytest.approx(wanted[name], abs=1e-4), (row["step"], name)
    own, theirs = (find_checkpoints(run / "checkpoints")[-1] for run in (folder, whole[0]))
    for group in ("weights", "chosen", "optimiser"):
        tensors, wanted = own.tensors(group), theirs.tensors(group)
        assert tensors.keys() == wanted.keys()
        for name in wanted:
            assert torch.allclose(tensors[name], wanted[name], atol=1e-4), name


def test_what_cannot_be_is_told_in_one_line(train, tuned):
    reinforce = [*GRPO, f"start={tuned}"]
    for overrides, message in (
        (["reinforce.choose_by=chexpert_rules/f1"], "chexpert_rules has no value"),
        (["reinforce.rewards={chexbert: 1}"], "hf download"),
    ):
        _, said = train("refused", *reinforce, *overrides, fails=True)
        assert message in said, said
        assert "Traceback" not in said
