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
            "Both lungs are clear. Tube in position.",
        ),
        ("Normal chest x-XXXX.", "Normal chest x-ray."),
        ("Compared with XXXX, XXXX. No change.", "No change."),
        ("XXXX, XXXX: the lungs are clear.", "The lungs are clear."),
        ("Age 53XXXX with pain at XXXXPM (XXXX).", ""),
        ("XXXX-year-old woman.", "Year-old woman."),
        ("Dr. ___ was paged at ___. Clear.", "Clear."),
        ("Dr. ___ was told at 9 a.m. on ___. Clear.", "Clear."),
        ("As compared to ___, the lungs are clear. No effusion.", "No effusion."),
        ("In comparison with the ___ study, no change. Clear.", "Clear."),
        ("New since ___. Clear.", "Clear."),
        ("The ___ lungs are clear and ___ expanded.", "The lungs are clear and expanded."),
        ("There are no ___ of an effusion. ___ are normal. Clear.", "Clear."),
        (
            "The tube is in ___ position, 4 cm above the carina.",
            "The tube is in position, 4 cm above the carina.",
        ),
        ("Tip of the tube at ___ with kink. Clear.", "Clear."),
        ("Seen by [**Name 1**]. Clear.", "Clear."),
        ("Lungs clear.. No effusion .", "Lungs clear. No effusion."),
        ("At 3 p.m., the tube (2.5 cm) was in.", "At 3 p.m., the tube (2.5 cm) was in."),
        ("Reviewed by <###> and !PERSONALNAME! today.", ""),
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


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Two views of the chest dated ___.", "Two views of the chest."),
        ("___-year-old woman with ___.", "Year-old woman."),
        ("___ and cough", "cough"),
        ("History of ___", "History"),
        ("___ year old man with fever", "Year old man with fever"),
        ("Dr. ___", ""),
    ],
)
def test_of_a_context_the_orphan_alone_goes(text: str, clean: str) -> None:
    assert remove_marks(text, context=True) == clean
