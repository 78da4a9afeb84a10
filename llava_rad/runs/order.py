"""Which studies each optimiser step learns from: a pure function of the seed and the step.

Nothing depends on what was drawn before or on the number of processes, so a run that resumes and
a run on more processes see the same batches.
"""

from collections.abc import Callable, Sequence

import numpy as np

# Independent streams of randomness under one seed.
_PASS_STREAM, _BATCH_STREAM = 2, 3

# Batches that are sorted by length together. More would give less padding and less mixing.
_GROUP = 32


class BatchOrder:
    """The batches of a run, each of studies of similar length.

    Passes over the studies follow one another without a gap, so no batch is short. Every
    ``_GROUP`` batches' worth of draws is sorted by length and cut into batches, whose order is
    then shuffled.

    Args:
        weights: how often each study comes in one pass; a fraction is a probability.
        length: tokens of a study (its number) as a draw (its number) shows it.
        batch_size: studies of a batch.
        steps: batches of the run.
        seed: of the order; one number or several.
    """

    def __init__(
        self,
        weights: Sequence[float],
        length: Callable[[int, int], int],
        batch_size: int,
        steps: int,
        seed: Sequence[int],
    ) -> None:
        self.weights = np.asarray(weights, dtype=float)
        self.length = length
        self.batch_size = batch_size
        self.steps = steps
        self.seed = tuple(seed)
        self._passes: list[np.ndarray] = []
        self._group: tuple[int, list[np.ndarray]] = (-1, [])

    def batch(self, step: int) -> list[tuple[int, int]]:
        """(study, draw) pairs of a step, longest first.

        ``draw`` is unique within the run.
        """
        number, place = divmod(step, _GROUP)
        if self._group[0] != number:
            self._group = (number, self._grouped(number))
        draws = self._group[1][place]
        return [(self._drawn(int(d)), int(d)) for d in draws]

    def _grouped(self, number: int) -> list[np.ndarray]:
        first = number * _GROUP
        count = min(_GROUP, self.steps - first)
        draws = np.arange(first * self.batch_size, (first + count) * self.batch_size)
        rng = np.random.default_rng([*self.seed, _BATCH_STREAM, number])
        # Studies of equal length come in random order.
        draws = rng.permutation(draws)
        lengths = np.array([self.length(self._drawn(int(d)), int(d)) for d in draws])
        draws = draws[np.argsort(-lengths, kind="stable")]
        batches = draws.reshape(count, self.batch_size)
        return [batches[i] for i in rng.permutation(count)]

    def _drawn(self, draw: int) -> int:
        place = draw
        number = 0
        while True:
            if number == len(self._passes):
                self._passes.append(self._pass(number))
            if place < len(self._passes[number]):
                return int(self._passes[number][place])
            place -= len(self._passes[number])
            number += 1

    def _pass(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self.seed, _PASS_STREAM, number])
        whole = np.floor(self.weights).astype(int)
        extra = rng.random(len(self.weights)) < self.weights - whole
        return rng.permutation(np.repeat(np.arange(len(self.weights)), whole + extra))


def by_length(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """All studies once, longest first, in batches; the last one may be short."""
    ranked = np.argsort(-np.asarray(lengths), kind="stable")
    return [ranked[i : i + batch_size].tolist() for i in range(0, len(ranked), batch_size)]
