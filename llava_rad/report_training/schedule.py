"""Learning rate as a function of the step."""

import math


def steps_of(studies: float, epochs: float, batch_size: int) -> int:
    """Optimiser steps in which every study comes ``epochs`` times; the last batch is filled up."""
    return max(1, math.ceil(studies * epochs / batch_size))


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear from near 0 to ``peak``, then half a cosine down to 0.

    Args:
        step: from 0.
        steps: of the stage.
        peak: highest value.
        warmup: share of the steps that rise; rounded up to whole steps.
    """
    rising = math.ceil(steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
