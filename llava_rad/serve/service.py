"""What all endpoints share: the models, the queue before them, the limits, how a study is read."""

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from starlette.requests import Request

from llava_rad.config import Count, check_ranges
from llava_rad.data.identifiers import Identifiers
from llava_rad.errors import ConfigError, LlavaRadError, shown
from llava_rad.reports import Failure, GenerationSettings, Report, ReportWriter, StudyRequest
from llava_rad.reports.formats import ReportDocument, ReportFormat, report_document
from llava_rad.reports.study import READERS, StudyInMemory, read_study
from llava_rad.serve.measures import Measures
from llava_rad.serve.request_errors import RequestError
from llava_rad.serve.work import Place, Work

_Value = TypeVar("_Value")

#: Where a request keeps what is given back at its end.
HELD = "llava_rad.held"

# For what the models' thread is at when the server ends.
_LAST_STEP_SECONDS = 30.0


@dataclass(frozen=True)
class ServiceSettings:
    """How a server behaves; every limit holds for each request.

    Attributes:
        host: address that it listens on, which requests may name as their host.
        allow_hosts: further names that requests may give as their host.
        allow_origins: web pages of other origins that may call, such as ``"https://viewer"``.
        token: that requests must carry, or None.
        places: requests in hand at a time.
        batch_size: reports decoded together.
        most_bytes: of a request's body.
        max_new_tokens: longest report; a request may ask for less.
        keep_identifiers: name the patient in DICOM SR and FHIR.
        say: tells a person one line; no file's, patient's or text's word is in it.
    """

    host: str = "127.0.0.1"
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    places: Count = 32
    batch_size: Count = 8
    most_bytes: Count = 128_000_000
    max_new_tokens: Count = 256
    keep_identifiers: bool = False
    say: Callable[[str], None] = field(default=lambda line: None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_ranges(self)


class Service:
    """The models behind the endpoints.

    Args:
        models: that may be asked; the first one is asked where a request names none.
        settings: of the server.

    Raises:
        ConfigError: there is no model, or two have one name.
    """

    def __init__(self, models: Sequence[ReportWriter], settings: ServiceSettings) -> None:
        self.models = {model.config.name: model for model in models}
        if len(self.models) < max(1, len(models)):
            raise ConfigError(
                "two models have one name" if models else "there is no model to serve",
                where="MODEL",
                remedy="Name models of different names",
            )
        self.settings = settings
        self.measures = Measures()
        self.work = Work(
            batch_size=settings.batch_size,
            places=settings.places,
            batch_done=self.measures.batch_done,
        )
        self.measures.in_hand.set_function(lambda: self.work.in_hand)
        self._identifiers = Identifiers(keep=settings.keep_identifiers)
        self._key = secrets.token_bytes(32)
        self._readers = ThreadPoolExecutor(READERS, "readers")

    def place(self, request: Request) -> Place:
        """Take a place for a request; the guard gives it back when the request is over.

        Raises:
            RequestError: all are taken, or the server is stopping.
        """
        place: Place = request.scope[HELD].enter_context(self.work.place())
        return place

    def model(self, name: str | None) -> ReportWriter:
        """A model by its name, the first one without. Raises RequestError."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(
                f"there is no model {shown(name)}",
                status=404,
                kind="no_model",
                remedy=f"Use {' or '.join(self.models)}",
            )
        return self.models[name]

    def decoding(self, **wanted: Any) -> GenerationSettings:
        """Settings of a request; None is the default, and no report is longer than the server's.

        Raises:
            ConfigError: a value is out of its range.
        """
        most = self.settings.max_new_tokens
        given = {name: value for name, value in wanted.items() if value is not None}
        given["max_new_tokens"] = min(most, given.get("max_new_tokens", most))
        return GenerationSettings(**given)

    async def read(self, function: Callable[..., _Value], *arguments: Any) -> _Value:
        """Run something that reads pictures on a thread of its own, a few at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, function, *arguments)

    async def request(
        self, model: ReportWriter, study: StudyInMemory, frame: int | None = None
    ) -> StudyRequest:
        """What a model is shown of a study.

        Raises:
            LlavaRadError: no picture can be read, or none is frontal.
        """

        def read() -> StudyRequest | Failure:
            return read_study(model, study, frame=frame)

        return raising(await self.read(read))

    async def report(
        self,
        place: Place,
        model: ReportWriter,
        study: StudyInMemory,
        request: StudyRequest,
        settings: GenerationSettings,
        follow: Callable[[Sequence[int]], None] | None = None,
    ) -> Report:
        """Write a report; see :meth:`Place.report`.

        Raises:
            LlavaRadError: the model cannot.
        """
        report = raising(await place.report(model, study, request, settings, follow))
        self.measures.written(report.model, report.tokens)
        return report

    async def document(
        self,
        format: ReportFormat,
        report: Report,
        study: StudyInMemory,
        frame: int | None = None,
    ) -> bytes:
        """A report in a format; as JSON it carries the seal that :meth:`sealed` asks for.

        Raises:
            LlavaRadError: it cannot be written, such as an SR of images that are no DICOM.
        """

        def write() -> bytes:
            document = self._gather(report, study, frame)
            content = format.write(document)
            if format.name != "json":
                return content
            return json.dumps({**json.loads(content), "seal": self._seal(report)}).encode()

        return await self.read(write)

    def sealed(self, text: str, study: StudyInMemory) -> Report:
        """The report of a JSON that this server gave, unchanged and of this study.

        Raises:
            RequestError: it is another one.
        """
        wrong = RequestError(
            "the report is not one that this server wrote of these files",
            kind="bad_seal",
            remedy="Send the JSON as it came, with the same files, or ask for the report anew",
        )
        try:
            values = json.loads(text)
            seal = str(values["seal"]).encode()
            given = {f.name: values[f.name] for f in fields(Report) if f.name in values}
            given |= {name: tuple(given[name]) for name in ("images", "roles", "warnings")}
            given["observations"] = {n: float(p) for n, p in given["observations"].items()}
            report = Report(**given)
            right = hmac.compare_digest(seal, self._seal(report).encode())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise wrong from None
        if not right or report.study_id != study.study_id:
            raise wrong
        return report

    def close(self) -> None:
        """Take nothing new and end the threads when what they are at is done."""
        self.work.close()
        self._readers.shutdown(wait=False)
        self.work.join(_LAST_STEP_SECONDS)

    def _gather(self, report: Report, study: StudyInMemory, frame: int | None) -> ReportDocument:
        contents = {
            n: picture for n, picture in study.pictures.items() if isinstance(picture, bytes)
        }
        return report_document(
            report,
            study,
            self.model(report.model),
            identifiers=self._identifiers,
            contents=contents,
            frame=frame,
        )

    def _seal(self, report: Report) -> str:
        text = json.dumps(report.to_dict(), sort_keys=True)
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def raising(result: _Value | Failure) -> _Value:
    """The result. Raises the failure's error."""
    if isinstance(result, Failure):
        error: LlavaRadError = result.error
        raise error
    return result
