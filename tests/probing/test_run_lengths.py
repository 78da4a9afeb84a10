"""Run lengths: both ways to write them, against masks that are written pixel by pixel."""

import numpy as np
import pytest
from helpers.run_lengths import absolute_runs, relative_runs

from llava_rad.errors import DataError
from llava_rad.probing.run_lengths import decode_runs


def test_relative_runs_go_down_columns_from_the_end_of_the_last_one() -> None:
    # Skip 1 and take 2 (the rest of the first column), skip 2 and take 1 (end of the second).
    mask = decode_runs("1 2 2 1", (3, 3))
    assert mask.astype(int).tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    # The first region that the challenge's page shows: 387620 is 378 columns and 548 pixels.
    mask = decode_runs("387620 23 996 33", (1024, 1024))
    assert mask[:, 378].nonzero()[0].tolist() == list(range(548, 571))
    assert mask[:, 379].nonzero()[0].tolist() == list(range(543, 576))
    assert mask.sum() == 56


def test_absolute_runs_go_along_rows_from_the_first_pixel_which_is_1() -> None:
    mask = decode_runs("1 2 6 1 9 1", (3, 3), absolute=True)
    assert mask.astype(int).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("shape", [(5, 7), (8, 8), (1, 9), (9, 1)])
def test_masks_come_back(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.4
    np.testing.assert_array_equal(decode_runs(relative_runs(mask), shape), mask)
    np.testing.assert_array_equal(decode_runs(absolute_runs(mask), shape, absolute=True), mask)


@pytest.mark.parametrize("text", [" -1", "-1", ""])
def test_empty_masks(text: str) -> None:
    assert not decode_runs(text, (4, 4)).any()


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    "text", ["3 4 5", "a b", "10 90", "-3 4", "1.5 2", f"9 {2**62} {2**62} 9", f"1 {10**30}"]
)
def test_bad_runs_are_named(text: str, absolute: bool) -> None:
    with pytest.raises(DataError, match="row 7"):
        decode_runs(text, (6, 6), absolute=absolute, where="row 7")


def test_the_first_pixel_is_not_0_where_starts_are_absolute() -> None:
    with pytest.raises(DataError, match="reach outside 6 x 6"):
        decode_runs("0 2", (6, 6), absolute=True)
