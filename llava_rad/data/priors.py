"""A patient's study before this one, chosen by date and never by id."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from llava_rad.data.conversion import ConversionLog
from llava_rad.data.study import PriorStudy, Study


def add_priors(
    studies: Iterable[Study], when: Mapping[str, Sequence[float]], log: ConversionLog
) -> Iterator[Study]:
    """Give each study the patient's latest earlier study.

    Args:
        studies: the studies, in any order; they come out in the same order.
        when: study id to its time as numbers that sort, such as ``(20210301.0, 93000.0)`` for
            date and time. Only studies in it have priors or serve as one. Dates that public data
            sets shifted keep their order within a patient.
        log: notes ``no_prior_date_missing`` for a study of a patient with several studies whose
            time is unknown, and ``same_time_as_another_study`` where neither is the prior of
            the other.
    """
    studies = list(studies)
    by_patient: dict[str, list[Study]] = {}
    for study in studies:
        by_patient.setdefault(study.patient_id, []).append(study)
    for study in studies:
        others = by_patient[study.patient_id]
        if len(others) == 1:
            yield study
            continue
        if study.study_id not in when:
            log.note("no_prior_date_missing", study.study_id)
            yield study
            continue
        now = tuple(when[study.study_id])
        timed = [(tuple(when[other.study_id]), other) for other in others if other.study_id in when]
        if sum(time == now for time, _ in timed) > 1:
            log.note("same_time_as_another_study", study.study_id)
        earlier = [(time, other) for time, other in timed if time < now]
        if not earlier:
            yield study
            continue
        latest = max(time for time, _ in earlier)
        # Two studies at the same earlier time: the one with findings, then the first one given.
        candidates = [other for time, other in earlier if time == latest]
        prior = next((other for other in candidates if other.findings), candidates[0])
        yield replace(study, prior=PriorStudy(prior.study_id, prior.images, prior.findings))
