"""Shares of the patients of a set, the smaller ones inside the larger ones."""

from collections.abc import Sequence

import numpy as np

from llava_rad.data.study import Study
from llava_rad.errors import ConfigError


def draw_patients(patients: Sequence[str], fraction: float, seed: int) -> np.ndarray:
    """Which images belong to a drawn share of the patients: bool [images].

    At least one patient is drawn. Of one seed, smaller shares are part of larger ones.
    """
    names = sorted(set(patients))
    count = max(1, round(fraction * len(names)))
    order = np.random.default_rng(seed).permutation(len(names))
    drawn = {names[index] for index in order[:count]}
    return np.array([patient in drawn for patient in patients])


def share_of_patients(studies: Sequence[Study], share: float, seed: int) -> list[Study]:
    """All studies of a share of the patients, the same share of each data set among them.

    Args:
        studies: of one or several data sets, told apart by ``Study.source``.
        share: of the patients, above 0 and up to 1.
        seed: of the draw; of one seed, smaller shares are part of larger ones.

    Returns:
        The studies in their order.

    Raises:
        ConfigError: the share is no share.
    """
    if not 0 < share <= 1:
        raise ConfigError(
            f"the share of the patients is {share}", remedy="Give one above 0 and up to 1"
        )
    chosen = np.zeros(len(studies), bool)
    sources = np.array([study.source or "" for study in studies])
    for source in np.unique(sources):
        own = np.flatnonzero(sources == source)
        chosen[own] = draw_patients([studies[int(i)].patient_id for i in own], share, seed)
    return [study for study, is_in in zip(studies, chosen, strict=True) if is_in]
