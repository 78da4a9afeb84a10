"""Complete studies become documents, each once, whenever the process is stopped and started."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_rad.data import ConversionLog, Study
from llava_rad.data.dicom_studies import studies_of, study_names
from llava_rad.data.identifiers import Identifiers, read_key, write_key
from llava_rad.errors import DataError, ImageError
from llava_rad.model import ReportModel
from llava_rad.names import escape_name
from llava_rad.outputs import own_folder, write_bytes_result
from llava_rad.reports import GenerationSettings, Report
from llava_rad.reports.documents import document_stem, refusing
from llava_rad.reports.file import run_id
from llava_rad.reports.formats import ReportFormat, report_document
from llava_rad.reports.study import (
    Failure,
    StudyReader,
    empty_report,
    read_study,
    report_studies,
)
from llava_rad.serve.arrivals import Arrival, Stamp
from llava_rad.serve.journal import Journal

#: Folder of the journal and the key, beside the results.
STATE = ".llava-rad"


@dataclass(frozen=True)
class State:
    """What outlasts the process.

    Attributes:
        journal: of what was reported.
        identifiers: make the names of studies and patients.
    """

    journal: Journal
    identifiers: Identifiers


@contextlib.contextmanager
def own_state(place: Path, *, keep_identifiers: bool) -> Iterator[State]:
    """Hold the state that lies in a folder against other processes.

    Args:
        place: folder of the results.
        keep_identifiers: name studies and patients as the hospital does.

    Raises:
        DataError: another process holds it, or it cannot be read or written.
    """
    folder = place / STATE
    with own_folder(folder, "watch or listener"):
        if keep_identifiers:
            yield State(Journal(folder / "journal.jsonl"), Identifiers(keep=True))
            return
        write_key(folder / "key", Identifiers().key)
        identifiers = Identifiers(read_key(folder / "key"))
        yield State(Journal(folder / "journal.jsonl"), identifiers)


class Results:
    """Reports complete studies and writes their documents.

    A study is named by its pseudonym (its Study Instance UID where identifiers are kept), an image
    that is no DICOM file by its own name. When files of a study change or come after its report,
    it is reported again; the new documents are numbered (``NAME-2.pdf``), and none is replaced.

    Args:
        model: that writes the reports.
        settings: of the decoding.
        formats: of the documents, one file each.
        state: see :func:`own_state`.
        folder: that the studies come to.
        output: for the documents; None puts them beside the first image of each study.
        precision: of the model's weights, for the record.
        send: whether structured reports are to be sent.
        say: tells a person one line; no patient's name is in it.
    """

    def __init__(
        self,
        model: ReportModel,
        settings: GenerationSettings,
        formats: Sequence[ReportFormat],
        state: State,
        folder: Path,
        output: Path | None,
        *,
        precision: str,
        send: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.settings, self.formats = model, settings, formats
        self.journal, self.identifiers = state.journal, state.identifiers
        self.folder, self.output = folder, output
        self.run = run_id(model, settings, precision=precision)
        self.send, self.say = send, say
        self.written = 0
        self._read: StudyReader = read_study
        if all(format.needs_dicom for format in formats):
            self._read = refusing(read_study)

    def take(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Report the studies that are complete and not yet done.

        Returns:
            All studies that need no more work as they are.

        Raises:
            DataError: a document or the journal cannot be written; what was written stays.
        """
        groups = [arrival.group for arrival in arrivals]
        uids = study_names(groups, self.identifiers, ConversionLog())
        names = [uid or self._relative(g.files[0]) for uid, g in zip(uids, groups, strict=True)]
        done, studies = [], None
        for number, (arrival, name) in enumerate(zip(arrivals, names, strict=True)):
            if not arrival.complete:
                continue
            files = {self._relative(path): stamp for path, stamp in arrival.stamps.items()}
            if not self.journal.is_done(name, files):
                if studies is None:  # all of them, since each may be another's prior
                    studies = studies_of(groups, self.identifiers, ConversionLog())
                stem = name if uids[number] else document_stem(name)
                self._report(studies[number], name, stem, files)
            done.append(arrival)
        return done

    def _relative(self, path: str) -> str:
        return escape_name(Path(path).relative_to(self.folder))

    def _report(self, study: Study, name: str, stem: str, files: Mapping[str, Stamp]) -> None:
        [result] = report_studies(self.model, [study], self.settings, read=self._read)
        if isinstance(result, Failure):
            self.say(f"error: {name}: {result.error}")
            self.journal.finish(name, files, run=self.run, error=result.error.kind)
            return
        for warning in result.warnings:
            if warning.startswith("unreadable: "):
                self.say(f"error: {name}: {warning}")
        if result.empty:
            self.say(f"error: {empty_report(name)}")
        documents = self._documents(result, study, name)
        if not documents:
            self.journal.finish(name, files, run=self.run, error="no_document")
            return
        place = self.output or Path(study.images[0].path).parent
        stem = self._free(place, stem, self.journal.count(name) + 1)
        paths = {place / f"{stem}{format.ending}": content for format, content in documents}
        self.journal.begin(name, [self._known(path) for path in paths])
        for path, content in paths.items():
            write_bytes_result(path, content)
        to_send = [
            self._known(path)
            for path, (format, _) in zip(paths, documents, strict=True)
            if self.send and format.needs_dicom
        ]
        self.journal.finish(name, files, run=self.run, send=to_send)
        self.written += 1
        self.say(f"{name} -> {', '.join(str(path) for path in paths)}")

    def _documents(
        self, report: Report, study: Study, name: str
    ) -> list[tuple[ReportFormat, bytes]]:
        document = report_document(report, study, self.model, identifiers=self.identifiers)
        documents = []
        for format in self.formats:
            try:
                documents.append((format, format.write(document)))
            except (DataError, ImageError) as error:  # no DICOM, or gone since it was read
                self.say(f"error: {name}: {error}")
        return documents

    def _free(self, place: Path, stem: str, number: int) -> str:
        """A name whose files are not there, or were begun by a run of ours that was stopped."""
        while True:
            numbered = stem if number == 1 else f"{stem}-{number}"
            paths = [place / f"{numbered}{format.ending}" for format in self.formats]
            if all(self.journal.knows(self._known(path)) or not path.exists() for path in paths):
                return numbered
            number += 1

    def _known(self, path: Path) -> str:
        return escape_name(path.relative_to(self.output or self.folder))
