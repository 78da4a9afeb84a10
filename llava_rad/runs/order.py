"""Which studies each optimiser step learns from: a pure function of the seed and the step.

Nothing depends on what was drawn before or on the number of processes, so a run that resumes and
a run on more processes see the same batches.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np

# Independent streams of randomness under one seed.
_PASS_STREAM, _BATCH_STREAM = 2, 3

# Batches that are sorted by length together. More would give less padding and less mixing.
_GROUP = 32


class BatchOrder:
    """The batches of a run, each of studies of similar length.

    Passes over the studies follow one another without a gap, so no batch is short: one may lie
    across the border of two passes. The other batches of a pass are made of its own draws, at most
    ``_GROUP`` batches' worth at a time: sorted by length, cut into batches, and these shuffled. So
    an epoch of steps sees each study as often as its weight says.

    Args:
        weights: how often each study comes in one pass; a fraction is a probability.
        length: tokens of a study (its number) as a draw (its number) shows it.
        batch_size: studies of a batch.
        steps: batches of the run, with which the last pass ends.
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
        self._borders = [0]  # the first draw of each pass, and one past the last pass
        self._group: tuple[tuple[int, int], list[np.ndarray]] = ((-1, -1), [])

    def batch(self, step: int) -> list[tuple[int, int]]:
        """(study, draw) pairs of a step, longest first.

        ``draw`` is unique within the run.
        """
        first = step * self.batch_size
        number = self._pass_of(first)
        end = min(self._borders[number + 1], self.steps * self.batch_size)
        if first + self.batch_size > end:
            draws = self._longest_first(np.arange(first, first + self.batch_size))
        else:
            inside = -(-self._borders[number] // self.batch_size)  # first batch inside the pass
            draws = self._inside(number, step - inside, inside, end // self.batch_size)
        return [(self._drawn(int(d)), int(d)) for d in draws]

    def _inside(self, number: int, place: int, first: int, last: int) -> np.ndarray:
        """The batch at a place among the batches ``first`` to ``last - 1`` inside a pass."""
        groups = np.array_split(np.arange(first, last), -(-(last - first) // _GROUP))
        group = next(i for i, batches in enumerate(groups) if place + first <= batches[-1])
        if self._group[0] != (number, group):
            self._group = ((number, group), self._grouped(number, group, groups[group]))
        return self._group[1][place + first - int(groups[group][0])]

    def _grouped(self, number: int, group: int, batches: np.ndarray) -> list[np.ndarray]:
        first, count = int(batches[0]), len(batches)
        draws = np.arange(first * self.batch_size, (first + count) * self.batch_size)
        rng = np.random.default_rng([*self.seed, _BATCH_STREAM, number, group])
        # Studies of equal length come in random order.
        sorted_draws = self._longest_first(rng.permutation(draws))
        cut = sorted_draws.reshape(count, self.batch_size)
        return [cut[i] for i in rng.permutation(count)]

    def _longest_first(self, draws: np.ndarray) -> np.ndarray:
        lengths = np.array([self.length(self._drawn(int(d)), int(d)) for d in draws])
        return draws[np.argsort(-lengths, kind="stable")]

    def _pass_of(self, draw: int) -> int:
        while self._borders[-1] <= draw:
            self._passes.append(self._pass(len(self._passes)))
            self._borders.append(self._borders[-1] + len(self._passes[-1]))
        return bisect.bisect_right(self._borders, draw) - 1

    def _drawn(self, draw: int) -> int:
        number = self._pass_of(draw)
        return int(self._passes[number][draw - self._borders[number]])

    def _pass(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self.seed, _PASS_STREAM, number])
        whole = np.floor(self.weights).astype(int)
        extra = rng.random(len(self.weights)) < self.weights - whole
        return rng.permutation(np.repeat(np.arange(len(self.weights)), whole + extra))


def by_length(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """All studies once, longest first, in batches; the last one may be short."""
    ranked = np.argsort(-np.asarray(lengths), kind="stable")
    return [ranked[i : i + batch_size].tolist() for i in range(0, len(ranked), batch_size)]
