"""Reports for many studies: read, generate, write each as it comes, go on where a run stopped."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from llava_rad.data import Study
from llava_rad.errors import DataError, LlavaRadError
from llava_rad.generation import GenerationSettings, Report, generate_reports
from llava_rad.images import load_radiograph
from llava_rad.model import ReportModel
from llava_rad.requests import StudyRequest, study_request


@dataclass(frozen=True)
class Failure:
    """A study without a report, and why."""

    study_id: str
    error: LlavaRadError


def read_study(model: ReportModel, study: Study) -> StudyRequest | Failure:
    """Read a study's pictures and choose what the model is shown of it."""
    rendering = model.processor.preprocessing.rendering
    images = [*study.images, *(study.prior.images if study.prior else ())]
    try:
        pictures = {i.path: load_radiograph(i.path, rendering=rendering) for i in images}
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
        reports = iter(generate_reports(model, [r.request for r in ready], settings))
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


class ReportFile:
    """JSON lines on disk, one a study, complete after each line; an earlier run is gone on with.

    Args:
        path: to write.
        run: what the reports depend on beside their study (model, settings); lines written with
            something else are not mixed in.

    Raises:
        DataError: the file was written by another run, or is not one of ours.
    """

    def __init__(self, path: str | Path, run: str) -> None:
        self.path = Path(path)
        self.run = run
        self.done: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read_done()
            self._handle = self.path.open("ab")
            self._handle.truncate(kept)
        except OSError as error:
            raise DataError(
                f"cannot write ({error.strerror})",
                where=self.path,
                remedy="Choose another --output",
            ) from error

    def _read_done(self) -> int:
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        # What follows the last line break was cut off in the middle of writing.
        kept = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:kept].splitlines(), 1):
            try:
                values = json.loads(line)
                study_id, run = values["study_id"], values["run"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    "not a line of reports",
                    where=f"{self.path}:{number}",
                    remedy="Choose another --output",
                    kind="foreign_output",
                ) from error
            if run != self.run:
                raise DataError(
                    "holds reports of another model or other settings",
                    where=self.path,
                    remedy="Choose another --output, or delete it to start again",
                    kind="other_run",
                )
            self.done.add(study_id)
        return kept

    def write(self, report: Report) -> None:
        """Append one report and hand it to the operating system."""
        line = json.dumps({**report.to_dict(), "run": self.run}, ensure_ascii=False)
        self._handle.write(line.encode() + b"\n")
        self._handle.flush()

    def close(self) -> None:
        """Finish the file."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()

    def __enter__(self) -> "ReportFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_id(model: ReportModel, settings: GenerationSettings, *, precision: str) -> str:
    """Short hash of what a report depends on beside its study."""
    values = {"model": model.folder_hash, "settings": settings.to_dict(), "precision": precision}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def with_indication(studies: Sequence[Study], indication: str | None) -> list[Study]:
    """The studies with one indication for all, where it is given."""
    if indication is None:
        return list(studies)
    return [replace(study, indication=indication) for study in studies]
