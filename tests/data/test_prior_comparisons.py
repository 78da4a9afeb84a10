"""Sentences that compare with an earlier image go, and descriptions of this one stay."""

import pytest

from llava_rad.data.prior_comparisons import without_prior_comparisons


@pytest.mark.parametrize(
    "sentence",
    [
        "Compared to the prior study, the effusion is larger.",
        "In comparison with the study of yesterday, the lungs are clearer.",
        "The cardiac silhouette is unchanged.",
        "No significant change.",
        "No interval change in the opacity.",
        "Stable cardiomegaly.",
        "There is a new opacity at the left base.",
        "Again seen is a right PICC.",
        "A pacemaker is again noted.",
        "Redemonstrated is a calcified granuloma.",
        "The effusion has increased.",
        "Increasing consolidation at the base.",
        "Interval removal of the chest tube.",
        "Since the previous exam the tube was advanced.",
        "The previously seen nodule is not visible.",
        "The left pneumothorax has resolved.",
        "Lungs remain hyperexpanded.",
        "Persistent left basilar opacity.",
        "Improved aeration of the left lung.",
        "The chest tube has been removed.",
        "Hyperinflated chest as before.",
        "Worsening edema.",
        "This was present on previous CT.",
    ],
)
def test_a_comparison_goes(sentence: str) -> None:
    assert without_prior_comparisons(f"Heart is normal. {sentence} No effusion.") == (
        "Heart is normal. No effusion."
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "Increased interstitial markings in the bases.",
        "Lung volumes are decreased.",
        "The heart is enlarged.",
        "Prior sternotomy with intact wires.",
        "Calcified nodes are consistent with prior granulomatous disease.",
        "Degenerative changes of the spine.",
        "No acute bony changes.",
        "Emphysematous change without consolidation.",
        "Old rib fractures, healed.",
        "Chronic scarring at the apex.",
        "Borderline heart size related to recent pregnancy.",
        "Sutures suggest previous lung surgery.",
    ],
)
def test_a_description_stays(sentence: str) -> None:
    assert without_prior_comparisons(f"Heart is normal. {sentence}").endswith(sentence)


def test_titles_and_hours_end_no_sentence() -> None:
    text = "Told to Dr. New at 9 a.m. Today. Lungs clear."
    assert without_prior_comparisons(text) == "Lungs clear."


def test_nothing_may_be_left() -> None:
    assert without_prior_comparisons("Unchanged.") == ""
