"""What ``report``, ``serve``, ``watch`` and ``listen`` share: formats, and a loaded model."""

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.cli.common import say_precision, status

if TYPE_CHECKING:
    from llava_rad.model import ReportModel
    from llava_rad.reports.formats import ReportFormat
    from llava_rad.serve.results import Results


class FormatName(enum.StrEnum):
    """How reports are written; an enumeration, since Typer has no lists of literals."""

    text = "text"
    json = "json"
    markdown = "markdown"
    pdf = "pdf"
    fhir = "fhir"
    dicom_sr = "dicom-sr"


Formats = Annotated[
    list[FormatName],
    typer.Option("--format", help="How reports are written; give it again for several."),
]
KeepIdentifiers = Annotated[
    bool,
    typer.Option("--keep-identifiers", help="Name the patient in DICOM SR and FHIR."),
]
Quiet = Annotated[
    float,
    typer.Option(min=0.1, help="Seconds without a new or changed image that complete a study."),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest report, in tokens.")]


def said_of(results: "Results | None") -> str:
    """What has become of the work, where a signal stops it."""
    from llava_rad.wording import counted, verb

    count = results.written if results is not None else 0
    return f"{counted(count, 'report')} {verb(count, 'was', 'were')} written"


def checked_formats(names: Iterable[FormatName], *, keep_identifiers: bool) -> "list[ReportFormat]":
    """The formats, each once, their packages there. Raises ConfigError or MissingExtraError."""
    from llava_rad.reports.documents import refuse_needless_identifiers
    from llava_rad.reports.formats import report_format

    chosen = list(dict.fromkeys(name.value for name in names))
    refuse_needless_identifiers(keep_identifiers, chosen)
    return [report_format(name) for name in chosen]


def load_model(model: str, device: str, dtype: str) -> "tuple[ReportModel, str]":
    """A model and the precision of its weights in words. Raises LlavaRadError."""
    from llava_rad.model import load
    from llava_rad.reports.model_facts import ModelFacts

    with status(f"Loading {model}"):
        loaded = load(model, dtype=dtype, device=device)
    precision = ModelFacts.of(loaded).precision
    say_precision(dtype, precision, device)
    return loaded, precision
