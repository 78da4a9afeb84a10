"""Sentences that are right for none, one and many."""

import pytest

from llava_rad.wording import counted, failed_of, listed, nearest_name


def test_numbers_come_with_the_right_noun():
    assert [counted(n, "study", "studies") for n in range(3)] == [
        "0 studies",
        "1 study",
        "2 studies",
    ]
    assert counted(1, "image") == "1 image" and counted(4, "image") == "4 images"


@pytest.mark.parametrize(
    ("failed", "total", "said"),
    [
        (1, 1, "the only study failed"),
        (3, 3, "all 3 studies failed"),
        (2, 3, "2 of 3 studies failed, the other is scored"),
        (1, 3, "1 of 3 studies failed, the others are scored"),
    ],
)
def test_others_are_named_only_where_there_are_any(failed, total, said):
    assert failed_of(failed, total, "study", "studies", "scored") == said


def test_lists_of_names():
    assert listed(["a"], "column") == "Its column is a"
    assert listed(["a", "b"], "column") == "Its columns are a, b"
    assert listed([], "column") == "It has no columns"
    assert len(listed(["name"] * 1000, "column")) < 450


def test_the_nearest_name_disregards_capitals():
    assert nearest_name("image", ["IMG", "sex"]) == "IMG"
    assert nearest_name("image", ["sex", "age"]) == ""
