"""Views, ages, sexes and splits as data sets write them."""

import pytest

from llava_rad.data.fields import first_existing, frontal_first, parse_age, parse_sex, parse_split
from llava_rad.data.study import StudyImage
from llava_rad.errors import DataError
from llava_rad.views import view_of


@pytest.mark.parametrize(
    ("word", "view"),
    [
        ("PA", "frontal"),
        ("AP Supine", "frontal"),
        ("AP_horizontal", "frontal"),
        ("AP LLD", "frontal"),
        ("Frontal", "frontal"),
        ("antero-posterior", "frontal"),
        ("L", "lateral"),
        ("LL", "lateral"),
        ("RL", "lateral"),
        ("LATERAL", "lateral"),
        ("XTABLE LATERAL", "lateral"),
        ("Lateral", "lateral"),
        ("LAO", "unknown"),
        ("COSTAL", "unknown"),
        ("?", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_view(word: str | None, view: str) -> None:
    assert view_of(word) == view


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("77", 77),
        ("54.0", 54),
        ("058Y", 58),
        ("006M", 0.5),
        (45.0, 45),
        ("101", 101),
        ("411", None),
        ("", None),
        (None, None),
        ("90+", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_age(text: str | float | None, years: float | None) -> None:
    assert parse_age(text) == years


@pytest.mark.parametrize(
    ("text", "sex"), [("M", "M"), ("Female", "F"), ("male", "M"), ("O", None), ("", None)]
)
def test_sex(text: str, sex: str | None) -> None:
    assert parse_sex(text) == sex


def test_split() -> None:
    assert parse_split("validate") == parse_split("Valid") == parse_split("dev") == "validation"
    assert parse_split("") is parse_split(None) is None
    with pytest.raises(DataError, match="'holdout'"):
        parse_split("holdout")


def test_frontal_images_come_first_and_else_keep_their_order() -> None:
    images = [StudyImage(name, view) for name, view in zip("abcd", LATE_FRONTAL, strict=True)]
    assert "".join(image.path for image in frontal_first(images)) == "bdac"


LATE_FRONTAL = ("lateral", "frontal", "unknown", "frontal")


@pytest.mark.parametrize("name", ["a" * 70_000, "a\0b", "x/" * 3000, "", "\ud800"])
def test_a_name_that_no_system_holds_is_no_file(name, tmp_path):
    (tmp_path / "there").write_text("")
    assert first_existing(tmp_path / name) is None
    assert first_existing(tmp_path / name, tmp_path / "there") == tmp_path / "there"
