"""Errors by subgroup of several files of predictions on the same studies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llava_rad.evaluation.error_changes import ErrorChanges, error_changes
from llava_rad.evaluation.error_page import Compared
from llava_rad.evaluation.normal_references import normal_references
from llava_rad.evaluation.observation_errors import stated_observations
from llava_rad.evaluation.predictions import Prediction
from llava_rad.evaluation.subgroups import find_subgroups
from llava_rad.metrics.result import MetricResult
from llava_rad.statistics import Units

_OF_STUDY = ("labels", "sex", "age", "view", "source")


def compare_errors(
    names: Sequence[str],
    rows: Sequence[Sequence[Prediction]],
    results: Sequence[Mapping[str, MetricResult]],
    mentions: NDArray[np.int64] | None,
    units: Units,
    primary: str,
) -> list[tuple[Compared, list[ErrorChanges]]]:
    """Compare every other file with the first.

    Args:
        names: of the files.
        rows: of each file, on the same studies in the same order. What one file does not say of a
            study, such as its sex, is taken from the next one that does.
        results: the metrics of each file.
        mentions: what chexpert-rules find in the references and in each file's predictions
            [1 + files, studies, 14]; None where reports are not in English.
        units: of the studies.
        primary: the declared value, whose labeler and policy stand first.

    Returns:
        For each other file its changes, and those under every policy; nothing without labels.
    """
    studies = [_of_study(of_files) for of_files in zip(*rows, strict=True)]
    expected = None if mentions is None else mentions[0]
    subgroups = find_subgroups(studies, *normal_references(studies, expected))
    stated = [
        stated_observations(of_file, None if mentions is None else mentions[[1 + i, 0]], primary)
        for i, of_file in enumerate(results)
    ]
    compared = []
    for name, of_file, theirs in list(zip(names, rows, stated, strict=True))[1:]:
        policies = [
            error_changes(first, second, subgroups, units)
            for first, second in zip(stated[0], theirs, strict=True)
        ]
        if policies:
            compared.append((Compared(name, of_file, policies[0]), policies))
    return compared


def _of_study(rows: Sequence[Prediction]) -> Prediction:
    """The first file's row, with what only another file says of the study."""
    told = {
        field: next((value for row in rows if (value := getattr(row, field))), None)
        for field in _OF_STUDY
    }
    return replace(rows[0], **{field: value for field, value in told.items() if value is not None})
