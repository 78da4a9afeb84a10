"""The order of studies: complete, the same for any number of processes, grouped by length."""

from collections import Counter

import numpy as np
import pytest

from llava_rad.runs.order import BatchOrder, by_length


def order(count=40, batch=8, steps=15, seed=(0, 0), weights=None, lengths=None):
    lengths = np.arange(count) if lengths is None else lengths
    return BatchOrder(weights or [1.0] * count, lambda i, _: int(lengths[i]), batch, steps, seed)


def studies(batches):
    return [study for batch in batches for study, _ in batch]


def test_each_pass_holds_every_study_once():
    batches = order()
    drawn = sorted((draw, study) for step in range(15) for study, draw in batches.batch(step))
    assert [draw for draw, _ in drawn] == list(range(120))
    for first in range(0, 120, 40):
        assert sorted(study for _, study in drawn[first : first + 40]) == list(range(40))
    assert [s for _, s in drawn[:40]] != [s for _, s in drawn[40:80]]


@pytest.mark.parametrize(
    ("count", "batch"), [(64, 4), (66, 4), (40, 8), (1000, 8), (7, 3), (3, 8), (257, 2)]
)
def test_an_epoch_of_steps_sees_each_study_once(count, batch):
    epochs = 4
    lengths = np.random.default_rng(0).integers(50, 500, count)
    batches = order(count, batch, -(-epochs * count // batch), lengths=lengths)
    seen = [[s for s, _ in batches.batch(step)] for step in range(batches.steps)]
    for epoch in range(epochs):
        # Whole batches of the pass, and what it has of those across its borders.
        first, last = epoch * count, (epoch + 1) * count
        inside = [s for step in range(-(-first // batch), last // batch) for s in seen[step]]
        assert max(Counter(inside).values(), default=1) == 1
        across = {first // batch, last // batch} if count % batch else set()
        others = {s for step in across if step < len(seen) for s in seen[step]}
        assert set(inside) | others == set(range(count))
    everything = Counter(study for of_step in seen for study in of_step)
    often = batches.steps * batch // count
    assert set(everything.values()) <= {often, often + 1}


def test_a_batch_across_a_border_holds_both_passes():
    batches = order(count=10, batch=4, steps=5)
    draws = [sorted(draw for _, draw in batches.batch(step)) for step in range(5)]
    assert draws[2] == [8, 9, 10, 11]
    assert sorted(draws[0] + draws[1]) == list(range(8))
    assert sorted(draws[3] + draws[4]) == list(range(12, 20))


def test_a_step_depends_on_seed_and_step_alone():
    whole = [order().batch(step) for step in range(15)]
    fresh = order()
    assert [fresh.batch(step) for step in reversed(range(15))] == whole[::-1]
    assert [order(seed=(1, 0)).batch(step) for step in range(15)] != whole
    assert [order(seed=(0, 1)).batch(step) for step in range(15)] != whole


def test_fractions_are_probabilities_and_whole_numbers_repeat():
    batches = order(count=2, batch=10, steps=1000, weights=[2.0, 0.5])
    counts = Counter(studies(batches.batch(step) for step in range(1000)))
    assert 0.22 < counts[1] / counts[0] < 0.28


def test_studies_of_like_length_share_a_batch():
    lengths = np.random.default_rng(0).integers(50, 500, 640)
    batches = order(count=640, batch=8, steps=80, lengths=lengths)
    longest = tokens = 0
    for step in range(80):
        of_batch = [lengths[study] for study, _ in batches.batch(step)]
        assert of_batch == sorted(of_batch, reverse=True)
        longest += 8 * max(of_batch)
        tokens += sum(of_batch)
    assert 1 - tokens / longest < 0.05
    firsts = [lengths[batches.batch(step)[0][0]] for step in range(32)]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_validation_batches_hold_every_study_once_longest_first():
    batches = by_length(np.array([3, 9, 1, 7, 5]), 2)
    assert batches == [[1, 3], [4, 0], [2]]
