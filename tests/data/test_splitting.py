"""Held-out patients."""

import pytest

from llava_rad.data import Study, check_studies, hold_out
from llava_rad.errors import ConfigError


def test_shares_hold_and_patients_stay_together() -> None:
    studies = [Study(f"s{i}", f"p{i // 2}") for i in range(4000)]
    held = hold_out(studies, validation=0.1, test=0.2)
    check_studies(held)
    share = {split: sum(s.split == split for s in held) / 4000 for split in ("validation", "test")}
    assert share["validation"] == pytest.approx(0.1, abs=0.03)
    assert share["test"] == pytest.approx(0.2, abs=0.03)
    assert {study.split for study in held} == {"train", "validation", "test"}


def test_a_patient_s_place_does_not_depend_on_the_others() -> None:
    studies = [Study(f"s{i}", f"p{i}") for i in range(100)]
    whole = {s.study_id: s.split for s in hold_out(studies, validation=0.3)}
    part = {s.study_id: s.split for s in hold_out(studies[50:], validation=0.3)}
    assert part.items() <= whole.items()


def test_official_splits_are_left_alone() -> None:
    studies = [Study(f"s{i}", f"p{i}", split="test" if i % 2 else "train") for i in range(100)]
    held = hold_out(studies, validation=0.5)
    assert all(s.split == "test" for s in held[1::2])
    assert {s.split for s in held[::2]} == {"train", "validation"}
    with pytest.raises(ConfigError, match="official test"):
        hold_out(studies, test=0.1)


def test_shares_must_leave_training_data() -> None:
    with pytest.raises(ConfigError, match="shares"):
        hold_out([Study("s", "p")], validation=0.5, test=0.5)
