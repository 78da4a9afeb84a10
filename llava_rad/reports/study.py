"""Reports for many studies: read, generate, give each as it comes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from llava_rad.data import Study
from llava_rad.errors import LlavaRadError
from llava_rad.images import load_radiograph
from llava_rad.model import ReportModel
from llava_rad.reports.generate import GenerationSettings, Report, generate_reports
from llava_rad.reports.request import StudyRequest, study_request


@dataclass(frozen=True)
class Failure:
    """A study without a report, and why."""

    study_id: str
    error: LlavaRadError


def read_study(
    model: ReportModel, study: Study, *, frame: int | None = None
) -> StudyRequest | Failure:
    """Read a study's pictures and choose what the model is shown of it.

    Args:
        model: that is to describe it.
        study: with its images' paths.
        frame: which picture of files that hold several, see ``load_radiograph``.
    """
    rendering = model.processor.preprocessing.rendering
    images = [*study.images, *(study.prior.images if study.prior else ())]
    try:
        pictures = {
            i.path: load_radiograph(i.path, rendering=rendering, frame=frame) for i in images
        }
        result = study_request(study, model.processor.template, pictures)
    except LlavaRadError as error:
        return Failure(study.study_id, error)
    seen = [w for image in result.images for w in pictures[image.path].warnings]
    return replace(result, warnings=(*seen, *result.warnings))


#: Makes a study into what the model is shown, as :func:`read_study` does.
StudyReader = Callable[[ReportModel, Study], StudyRequest | Failure]


def report_studies(
    model: ReportModel,
    studies: Iterable[Study],
    settings: GenerationSettings | None = None,
    *,
    batch_size: int = 1,
    read: StudyReader = read_study,
) -> Iterator[Report | Failure]:
    """Write a report for each study, in order; a study that fails does not stop the others.

    Args:
        model: loaded with :func:`llava_rad.load`.
        studies: each with its images' paths.
        settings: of the decoding.
        batch_size: studies decoded together.
        read: how a study becomes a request.

    Yields:
        One result a study.
    """
    remaining = iter(studies)
    while batch := list(islice(remaining, batch_size)):
        results: list[StudyRequest | Failure] = [read(model, study) for study in batch]
        ready = [r for r in results if isinstance(r, StudyRequest)]
        keys = [
            study.study_id
            for study, result in zip(batch, results, strict=True)
            if isinstance(result, StudyRequest)
        ]
        reports = iter(generate_reports(model, [r.request for r in ready], settings, keys=keys))
        for study, result in zip(batch, results, strict=True):
            if isinstance(result, Failure):
                yield result
                continue
            yield replace(
                next(reports),
                study_id=study.study_id,
                images=tuple(image.path for image in result.images),
                warnings=result.warnings,
            )


def with_indication(studies: Sequence[Study], indication: str | None) -> list[Study]:
    """The studies with one indication for all, where it is given."""
    if indication is None:
        return list(studies)
    return [replace(study, indication=indication) for study in studies]
