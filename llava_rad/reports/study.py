"""Reports for many studies: read, generate, give each as it comes."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from llava_rad.data import Study
from llava_rad.errors import ImageError, LlavaRadError, ModelError
from llava_rad.images import PictureSource, Radiograph, load_radiograph
from llava_rad.model import ReportModel
from llava_rad.reports.generate import GenerationSettings, generate_reports
from llava_rad.reports.read_ahead import read_ahead
from llava_rad.reports.report import Report, cautions_first
from llava_rad.reports.request import (
    StudyRequest,
    images_to_read,
    study_request,
    without_images,
)


@dataclass(frozen=True)
class Failure:
    """A study without a report, and why.

    Attributes:
        study_id: of the study, or what was given where no study could be made of it.
        error: what went wrong.

    Example:
        >>> for result in model.reports(["missing.dcm", "lateral.dcm"], errors="yield"):
        ...     if isinstance(result, llava_rad.Failure):
        ...         print(result.study_id, result.error.kind)
        missing.dcm no_input
        lateral.dcm no_frontal
    """

    study_id: str
    error: LlavaRadError


@dataclass(frozen=True)
class StudyInMemory(Study):
    """A study some of whose pictures are in memory.

    Attributes:
        pictures: by the ``path`` of the image that stands for each.
    """

    pictures: Mapping[str, PictureSource] = field(default_factory=dict, repr=False, compare=False)


def read_study(
    model: ReportModel, study: Study, *, frame: int | None = None
) -> StudyRequest | Failure:
    """Read a study's pictures and choose what the model is shown of it.

    A picture that cannot be read is left out with a warning ``unreadable``, and a further one of
    its view stands in. Where no picture is left the study fails with the first one's reason.

    Args:
        model: that is to describe it.
        study: with its images' paths, or their pictures.
        frame: which picture of files that hold several, see ``load_radiograph``.
    """
    rendering = model.processor.preprocessing.rendering
    template = model.processor.template
    given = study.pictures if isinstance(study, StudyInMemory) else {}
    pictures: dict[str, Radiograph] = {}
    unreadable: dict[str, ImageError] = {}
    for image in images_to_read(study, template):
        try:
            pictures[image.path] = load_radiograph(
                given.get(image.path, image.path),
                rendering=rendering,
                frame=frame,
                name=image.path,
            )
        except ImageError as error:
            unreadable[image.path] = error
    try:
        result = study_request(without_images(study, unreadable), template, pictures)
    except LlavaRadError as error:
        of_study = [unreadable[i.path] for i in study.images if i.path in unreadable]
        return Failure(study.study_id, of_study[0] if of_study else error)
    seen = [w for image in result.images for w in pictures[image.path].warnings]
    lost = [f"unreadable: {path} was left out: {e.what}" for path, e in unreadable.items()]
    return replace(result, warnings=(*seen, *lost, *result.warnings))


#: Threads that read and preprocess ahead; pictures are ready much faster than reports are written.
READERS = 2

#: Makes a study into what the model is shown, as :func:`read_study` does.
StudyReader = Callable[[ReportModel, Study], StudyRequest | Failure]


def report_studies(
    model: ReportModel,
    studies: Iterable[Study | Failure],
    settings: GenerationSettings | None = None,
    *,
    batch_size: int = 1,
    workers: int = 0,
    read: StudyReader = read_study,
) -> Generator[Report | Failure, None, None]:
    """Write a report for each study, in order; a study that fails does not stop the others.

    Args:
        model: loaded with :func:`llava_rad.load`.
        studies: each with its images' paths; a failure among them is given in its place.
        settings: of the decoding.
        batch_size: studies decoded together.
        workers: threads that read and preprocess the next studies while these are decoded; with
            0 that is done before each batch is decoded.
        read: how a study becomes a request.

    Yields:
        One result a study.
    """

    def prepared(study: Study | Failure) -> _Prepared | Failure:
        result = study if isinstance(study, Failure) else read(model, study)
        if isinstance(result, Failure):
            return result
        try:
            return _Prepared(result, model.processor.pixel_values([result.request]))
        except LlavaRadError as error:
            return Failure(study.study_id, error)

    ahead = max(batch_size, workers)
    with contextlib.closing(read_ahead(studies, prepared, workers=workers, ahead=ahead)) as results:
        while batch := list(islice(results, batch_size)):
            ready = [(s.study_id, p) for s, p in batch if isinstance(p, _Prepared)]
            keys = [key for key, _ in ready]
            reports = iter(_generate(model, [one for _, one in ready], settings, keys))
            for study, result in batch:
                if isinstance(result, Failure):
                    yield result
                    continue
                report = next(reports)
                if isinstance(report, ModelError):
                    yield Failure(study.study_id, report)
                    continue
                shown = result.request
                yield replace(
                    report,
                    study_id=study.study_id,
                    images=tuple(image.path for image in shown.images),
                    roles=tuple(image.role for image in shown.request.images),
                    warnings=cautions_first((*shown.warnings, *report.warnings)),
                    thumbnails=shown.thumbnails,
                )


@dataclass(frozen=True)
class _Prepared:
    """What the model is shown of a study, as the encoder takes it.

    Attributes:
        request: what the study became.
        pixel_values: of its images, [images, 3, height, width].
    """

    request: StudyRequest
    pixel_values: Tensor


def _generate(
    model: ReportModel,
    ready: Sequence[_Prepared],
    settings: GenerationSettings | None,
    keys: Sequence[str],
) -> list[Report | ModelError]:
    """A report each; what goes wrong with one of several is not the others' fault."""
    if not ready:
        return []
    requests = [one.request for one in ready]
    try:
        return [
            *generate_reports(
                model,
                [r.request for r in requests],
                settings,
                pixel_values=torch.cat([one.pixel_values for one in ready]),
                keys=keys,
                follow=[r.follow for r in requests],
            )
        ]
    except ModelError as error:
        if len(ready) == 1:
            return [error]
        pairs = zip(ready, keys, strict=True)
        return [found for one, key in pairs for found in _generate(model, [one], settings, [key])]


def empty_report(study_id: str | None) -> ModelError:
    """What is said of a study whose report has no text."""
    return ModelError(
        "the model wrote an empty report",
        where=study_id,
        remedy="Check the picture and the model's training; the study keeps its empty report",
        kind="empty_report",
    )


def with_indication(studies: Sequence[Study], indication: str | None) -> list[Study]:
    """The studies with one indication for all, where it is given."""
    if indication is None:
        return list(studies)
    return [replace(study, indication=indication) for study in studies]
