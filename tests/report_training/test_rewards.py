"""What a report is worth, computed here and in processes of their own."""

import os
import signal

import numpy as np
import pytest
from helpers.waiting import wait_for

from llava_rad.errors import ConfigError, TrainingError, WeightsError
from llava_rad.files import process_is_alive
from llava_rad.metrics import bleu_sacrebleu, chexpert_rules, rouge
from llava_rad.report_training.config import RewardConfig
from llava_rad.report_training.reward_workers import RewardWorkers
from llava_rad.report_training.rewards import Rewards, length_penalty, mixed

WRITTEN = ["No effusion.", "Large left effusion. No edema.", "", "The lungs are clear."]
TRUE = ["No effusion.", "Small left effusion.", "Pneumonia.", "Lungs clear. No pneumonia seen."]
MICRO = "chexpert_rules/uncertain_positive/14/micro/f1"


def test_the_parts_are_the_metrics_of_each_pair():
    parts = Rewards(["rules", "bleu", "rouge_l", "length"])(WRITTEN, TRUE)
    labels = chexpert_rules(WRITTEN, TRUE).per_pair["uncertain_positive/14/samples/f1"]
    assert parts["rules"].tolist() == labels.tolist()
    assert parts["rouge_l"].tolist() == rouge(WRITTEN, TRUE).per_pair["rougeL"].tolist()
    bleu = bleu_sacrebleu(WRITTEN, TRUE).per_pair["bleu_4"]
    assert parts["bleu"].tolist() == (bleu / 100).tolist()
    assert {name: values.max() for name, values in parts.items()} == {
        "rules": 1.0,
        "bleu": pytest.approx(1.0),
        "rouge_l": 1.0,
        "length": 0.0,
    }


def test_the_penalty_is_the_difference_in_words_and_at_most_one():
    true = ["one two three four"] * 4
    texts = ["one two three four", "one two", "one " * 6, "one " * 20]
    assert length_penalty(texts, true).tolist() == [0.0, -0.5, -0.5, -1.0]


def test_parts_add_up_by_their_weights():
    weights = RewardConfig(rules=2.0, length=0.5)
    assert weights.names == ("rules", "length")
    parts = {"rules": np.array([1.0, 0.25]), "length": np.array([-1.0, 0.0])}
    assert mixed(parts, weights).tolist() == [1.5, 0.5]


@pytest.mark.slow
def test_processes_answer_in_the_order_of_the_questions_and_end_with_the_block():
    own = Rewards(["rules", "length"], "chexpert_rules")
    with RewardWorkers(["rules", "length"], "chexpert_rules", 2, "cpu") as workers:
        numbers = [process.pid for process in workers._processes.values()]
        for i in range(3):
            workers.ask(WRITTEN[i:], TRUE[i:], over_all=i == 1)
        for i in range(3):
            scored = workers.answer()
            for name, values in own(WRITTEN[i:], TRUE[i:]).items():
                assert scored.parts[name].tolist() == values.tolist()
            assert (MICRO in scored.values) == (i == 1)
        os.kill(numbers[0], signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"has ended \(exit code -9\).*reinforce.workers"):
            for _ in numbers:  # by turns
                workers.ask(WRITTEN, TRUE)
                workers.answer()
    wait_for(lambda: not any(map(process_is_alive, numbers)))


@pytest.mark.slow
def test_what_is_missing_is_told_before_anything_is_scored():
    with pytest.raises(WeightsError, match="hf download"):
        RewardWorkers(["chexbert"], None, 1, "cpu")
    with pytest.raises(ConfigError, match="there is no metric 'f1'"):
        Rewards(["rules"], "f1")
