"""Which references are normal: the one place that says so."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llava_rad.evaluation.predictions import Prediction
from llava_rad.observations import OBSERVATIONS, Mention


def normal_references(
    rows: Sequence[Prediction], mentions: NDArray[np.int64] | None
) -> tuple[NDArray[np.bool_] | None, str]:
    """Which references are without a finding, by the file's labels where each row has them.

    By labels: ``No Finding`` is present or, where it is not among them, no other observation but
    ``Support Devices`` is present or uncertain. By the text: chexpert-rules find ``No Finding``.

    Args:
        rows: with the references.
        mentions: what chexpert-rules find in the references [rows, 14]; None where they are not in
            English.

    Returns:
        A mask [rows], None where it cannot be told, and how it was told, or why it was not.
    """
    if all(row.labels for row in rows):
        findings = set(OBSERVATIONS[:-1]) - {"Support Devices"}
        normal = [
            row.labels["No Finding"] == 1
            if "No Finding" in row.labels
            else not any(row.labels.get(name, 0) != 0 for name in findings)
            for row in rows
        ]
        return np.array(normal), "the file's labels"
    if mentions is None:
        return None, "not told: the file has no labels and chexpert-rules know English alone"
    normal_mentions = mentions[:, OBSERVATIONS.index("No Finding")] == Mention.POSITIVE
    return normal_mentions, "chexpert-rules on the reference"
