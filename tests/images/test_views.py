import pytest

from llava_rad.images import view_of


@pytest.mark.parametrize(
    "text",
    [
        "PA",
        "AP",
        "pa",
        " AP ",
        "p.a.",
        "AP SUPINE",
        "AP_horizontal",
        "AP AXIAL",
        "AP LORDOTIC",
        "PA LLD",
        "AP RLD",
        "AP/PA",
        "Frontal",
        "view1_frontal",
        "postero-anterior",
        "Postero anterior",
        "antero-posterior",
        "anteroposterior",
        "Posterior-anterior",
        "lateral decubitus PA",
    ],
)
def test_frontal_words(text):
    assert view_of(text) == "frontal"


@pytest.mark.parametrize(
    "text",
    [
        "LL",
        "RL",
        "L",
        "LATERAL",
        "lat",
        "Left lateral",
        "right lateral",
        "XTABLE LATERAL",
        "view2_lateral",
    ],
)
def test_lateral_words(text):
    assert view_of(text) == "lateral"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "nan",
        "SWIMMERS",
        "LAO",
        "RPO",
        "RLO",
        "oblique lateral",
        "left anterior oblique",
        "LLD",
        "left lateral decubitus",
        "PA and lateral",
        "R",
        "LEFT",
        "PARIETAL",
        "LAP",
    ],
)
def test_what_is_not_said_is_unknown(text):
    assert view_of(text) == "unknown"
