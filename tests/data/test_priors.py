"""A prior is chosen by date, never by id."""

from llava_rad.data import ConversionLog, Study
from llava_rad.data.priors import add_priors


def prior_ids(
    studies: list[Study], when: dict[str, tuple[float, ...]]
) -> tuple[dict[str, str | None], ConversionLog]:
    log = ConversionLog()
    found = list(add_priors(studies, when, log))
    assert [study.study_id for study in found] == [study.study_id for study in studies]
    return {s.study_id: s.prior.study_id if s.prior else None for s in found}, log


def test_the_latest_earlier_study_of_the_same_patient() -> None:
    studies = [
        Study("3", "p", findings="third"),
        Study("1", "p", findings="second"),
        Study("2", "p", findings="first"),
        Study("4", "q"),
    ]
    when = {"3": (30.0,), "1": (20.0,), "2": (10.0,), "4": (5.0,)}
    priors, log = prior_ids(studies, when)
    assert priors == {"3": "1", "1": "2", "2": None, "4": None}
    assert log.noted == {}
    (last, *_) = add_priors(studies, when, ConversionLog())
    assert last.prior is not None and last.prior.findings == "second"


def test_equal_dates_are_told_apart_by_time() -> None:
    studies = [Study("a", "p"), Study("b", "p")]
    priors, _ = prior_ids(studies, {"a": (10.0, 930.0), "b": (10.0, 815.0)})
    assert priors == {"a": "b", "b": None}


def test_the_very_same_time_makes_no_prior_and_is_noted() -> None:
    studies = [Study("a", "p"), Study("b", "p")]
    priors, log = prior_ids(studies, {"a": (10.0,), "b": (10.0,)})
    assert priors == {"a": None, "b": None}
    assert log.noted == {"same_time_as_another_study": ["a", "b"]}


def test_of_two_earlier_ones_the_one_with_findings() -> None:
    studies = [Study("a", "p"), Study("b", "p", findings="Clear."), Study("c", "p")]
    priors, _ = prior_ids(studies, {"a": (1.0,), "b": (1.0,), "c": (2.0,)})
    assert priors["c"] == "b"


def test_a_missing_date_makes_no_prior_and_is_noted() -> None:
    studies = [Study("a", "p"), Study("b", "p"), Study("alone", "q")]
    priors, log = prior_ids(studies, {"a": (1.0,)})
    assert set(priors.values()) == {None}
    assert log.noted == {"no_prior_date_missing": ["b"]}
