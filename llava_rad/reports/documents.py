"""Reports as documents of one file each: Markdown, PDF, FHIR, DICOM SR.

One study may go to a file or to standard output, several go into a folder. There each document is
``NAME-HASH.ENDING`` after its study's id, and ``reports-FORMAT.jsonl`` (a :class:`ReportFile`)
records what was written: with it a stopped run resumes, and from it the documents' studies are
found again. The key of the pseudonyms lies beside the folder (``FOLDER.key``), as that of a
manifest does.
"""

import contextlib
import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from llava_rad.data import Study
from llava_rad.data.identifiers import Identifiers, key_file, read_key, write_key
from llava_rad.errors import ConfigError, DataError
from llava_rad.images.source_instance import read_source_instance
from llava_rad.model import ReportModel
from llava_rad.outputs import (
    is_special,
    own_file,
    refuse_inputs,
    write_bytes_result,
)
from llava_rad.reports import Report
from llava_rad.reports.file import ReportFile
from llava_rad.reports.formats import report_document, report_format
from llava_rad.reports.formats.dicom_sr import no_sr
from llava_rad.reports.model_facts import ModelFacts
from llava_rad.reports.request import StudyRequest
from llava_rad.reports.study import Failure, StudyReader

#: Formats whose documents can name a patient.
NAMING = ("dicom-sr", "fhir")


class Documents:
    """Where documents go and whether they may; nothing is written before :meth:`open`.

    Args:
        name: of the format.
        output: a file if it ends as the format's files do, else a folder; None is standard output.
        studies: that are to be reported on.
        inputs: files that are read, which are never written to.
        keep_identifiers: name the patient in the document.
        overwrite: replace what is there.

    Raises:
        ConfigError: several studies for one file, binary content for a terminal, identifiers in a
            format that does not need them.
        DataError: the file is there, or is an input.
        MissingExtraError: the format's packages are not installed.
    """

    def __init__(
        self,
        name: str,
        output: Path | None,
        studies: Sequence[Study],
        *,
        inputs: Iterable[str | Path] = (),
        keep_identifiers: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.format = report_format(name)
        refuse_needless_identifiers(keep_identifiers, [name])
        self.output, self.overwrite, self.keep = output, overwrite, keep_identifiers
        self.studies = {study.study_id: study for study in studies}
        self.is_folder = output is not None and not (
            output.name.lower().endswith(self.format.ending) or is_special(output)
        )
        if output is None:
            self._require_stream()
        elif self.is_folder:
            if output.exists() and not output.is_dir():
                raise DataError(
                    "this is a file, and documents go into a folder",
                    where=output,
                    remedy=f"Name a folder, or for one study a file {self.format.ending}",
                    kind="output_is_file",
                )
        else:
            self._require_file(output, inputs)

    def _require_stream(self) -> None:
        if not self.format.is_binary:
            return
        if sys.stdout.isatty() or len(self.studies) > 1:
            raise ConfigError(
                f"{self.format.name} is binary"
                + (" and one file a study" if len(self.studies) > 1 else ", nothing to print"),
                where="--format",
                remedy="Name a file or folder with --output",
            )

    def _require_file(self, output: Path, inputs: Iterable[str | Path]) -> None:
        if len(self.studies) > 1:
            raise ConfigError(
                f"there are {len(self.studies)} studies, and {self.format.name} has one file each",
                where=f"--output {output}",
                remedy=f"Name a folder, without {self.format.ending} at its end",
            )
        refuse_inputs(output, inputs)
        if output.is_dir() or (output.exists() and not self.overwrite and not is_special(output)):
            raise DataError(
                "there is a folder of this name" if output.is_dir() else "the file is there",
                where=output,
                remedy="Choose another --output, or replace the file with --overwrite",
                kind="output_exists",
            )

    def open(
        self,
        model: ReportModel | ModelFacts,
        run: str,
        *,
        made_with: Mapping[str, Any],
        frame: int | None = None,
    ) -> "DocumentWriter":
        """Begin to write; used as a :class:`ReportFile` is.

        Raises:
            DataError: see :class:`ReportFile`.
        """
        return DocumentWriter(self, model, run, made_with, frame)


def refusing(read: StudyReader) -> StudyReader:
    """A study reader that fails where no DICOM SR can be made of the images.

    The model then need not write a text that has nowhere to go.
    """
    return functools.partial(_refusing, read)


def _refusing(read: StudyReader, model: ReportModel, study: Study) -> StudyRequest | Failure:
    result = read(model, study)
    if isinstance(result, Failure):
        return result
    for image, shown in zip(result.images, result.request.images, strict=True):
        if not shown.role.startswith("prior") and read_source_instance(image.path) is None:
            return Failure(study.study_id, no_sr(study.study_id, image.path))
    return result


class DocumentWriter:
    """Writes a document for each report.

    Attributes:
        done: ids of the studies whose documents an earlier run wrote.
        empty: those of them whose report has no text.
    """

    def __init__(
        self,
        documents: Documents,
        model: ReportModel | ModelFacts,
        run: str,
        made_with: Mapping[str, Any],
        frame: int | None,
    ) -> None:
        self.documents, self.model, self.frame = documents, model, frame
        self.done: set[str] = set()
        self.empty: set[str] = set()
        self._record: ReportFile | None = None
        self._identifiers = Identifiers(keep=documents.keep)
        output = documents.output
        facts = {**made_with, "identifiers": "kept"} if documents.keep else made_with
        with contextlib.ExitStack() as stack:
            if output is not None and documents.is_folder:
                record = stack.enter_context(
                    ReportFile(
                        output / f"reports-{documents.format.name}.jsonl",
                        run,
                        made_with=facts,
                        studies=list(documents.studies.values()),
                        overwrite=documents.overwrite,
                    )
                )
                self._resume(record, output)
            elif output is not None:
                stack.enter_context(own_file(output, "report run"))
            self._stack = stack.pop_all()

    def _resume(self, record: ReportFile, folder: Path) -> None:
        """Go on with the names and the documents of an earlier run."""
        if not self.documents.keep:
            key = key_file(folder)
            write_key(key, self._identifiers.key)
            self._identifiers = Identifiers(read_key(key))
        self.done = {name for name in record.done if self._in_folder(folder, name).exists()}
        self.empty = record.empty & self.done
        self._record = record

    def write(self, report: Report, shown: Mapping[str, Any] | None = None) -> None:
        """Write one document, whole or not at all.

        Raises:
            DataError: it cannot be written.
            ImageError: the format shows a picture that cannot be read any more.
        """
        documents, output = self.documents, self.documents.output
        study = documents.studies[report.study_id or ""]
        document = report_document(
            report, study, self.model, identifiers=self._identifiers, frame=self.frame
        )
        content = documents.format.write(document)
        if output is None:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        elif self._record is None:
            write_bytes_result(output, content)
        else:
            write_bytes_result(self._in_folder(output, study.study_id), content)
            self._record.write(report, shown)

    def _in_folder(self, folder: Path, study_id: str) -> Path:
        return folder / f"{document_stem(study_id)}{self.documents.format.ending}"

    def __enter__(self) -> "DocumentWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def document_stem(study_id: str) -> str:
    """The name of a study's files: of its id, which is a path where nothing else names the study.

    The hash keeps ``a/1.dcm`` and ``b/1.dcm`` apart, whichever studies are written together.
    """
    last = PurePath(study_id).name or study_id
    plain = re.sub(r"[^\w.-]+", "_", re.sub(r"\.[A-Za-z]\w{0,5}$", "", last)).strip("._")[:60]
    digest = hashlib.sha256(study_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain or 'study'}-{digest}"


def refuse_needless_identifiers(keep: bool, formats: Iterable[str]) -> None:
    """Refuse to keep identifiers where no document can hold them. Raises ConfigError."""
    if keep and not any(name in NAMING for name in formats):
        raise ConfigError(
            "documents of this format never name the patient",
            where="--keep-identifiers",
            remedy=f"It is for the formats {' and '.join(NAMING)}",
        )
