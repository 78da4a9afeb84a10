"""Validation and test splits for data sets that have none of their own."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from llava_rad.data.study import Split, Study
from llava_rad.errors import ConfigError


def hold_out(
    studies: Iterable[Study], *, validation: float = 0.0, test: float = 0.0
) -> list[Study]:
    """Move a share of the patients to validation and test.

    Only patients in training, or in no split, are moved; those in no split and not moved become
    training. A patient's place follows from a hash of its id: it stays where it is when the data
    set grows, and no seed is needed to get the same split again.

    Args:
        studies: the studies.
        validation: share of the patients for validation, from 0 to 1.
        test: share of the patients for the test.

    Raises:
        ConfigError: the shares are not shares, or the data set has an official split of the name.
    """
    studies = list(studies)
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ConfigError(
            f"shares validation={validation} and test={test} leave no training data",
            remedy="Give shares of at least 0 whose sum is below 1",
            kind="bad_option",
        )
    for name, share in (("validation", validation), ("test", test)):
        if share and any(study.split == name for study in studies):
            raise ConfigError(
                f"the data set has an official {name} split",
                remedy=f"Leave {name}= out",
                kind="bad_option",
            )

    def place(study: Study) -> Split | None:
        if study.split not in (None, "train"):
            return study.split
        digest = hashlib.sha256(study.patient_id.encode("utf-8")).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        if position < validation:
            return "validation"
        return "test" if position < validation + test else "train"

    return [replace(study, split=place(study)) for study in studies]
