"""De-identification marks leave no trace in the text."""

import pytest

from llava_rad.data.deidentification import masked_share, remove_marks


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        # case C38 of the public bug reports
        (
            "The heart and lungs have XXXX XXXX in the interval. Both lungs are clear. "
            "XXXX tube in XXXX position.",
            "The heart and lungs have in the interval. Both lungs are clear. Tube in position.",
        ),
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("Compared with XXXX, XXXX. No change.", "Compared with. No change."),
        ("XXXX, XXXX: the lungs are clear.", "The lungs are clear."),
        ("Age 53XXXX with pain at XXXXPM (XXXX).", "Age with pain at."),
        ("XXXX-year-old woman.", "Year-old woman."),
        ("___ year old man with ___, seen by Dr. ___.", "Year old man with, seen by Dr."),
        ("Lungs clear.. No effusion .", "Lungs clear. No effusion."),
        ("At 3 p.m., the tube (2.5 cm) was in.", "At 3 p.m., the tube (2.5 cm) was in."),
        ("Reviewed by <###> and !PERSONALNAME! today.", "Reviewed by and today."),
        ("lungs clear. XXXX heart normal.", "lungs clear. heart normal."),
        ("XXXX. XXXX", ""),
        ("", ""),
    ],
)
def test_remove_marks(text: str, clean: str) -> None:
    assert remove_marks(text) == clean


def test_masked_share_counts_words() -> None:
    assert masked_share("XXXX tube in XXXX position.") == pytest.approx(2 / 5)
    assert masked_share("Normal chest x-XXXX.") == 0
    assert masked_share("") == 0
