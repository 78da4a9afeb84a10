"""Reading a file of generated reports: JSON, JSON lines, CSV, TSV, Parquet, or ReXrank's JSON."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.data.fields import parse_age, parse_sex
from llava_rad.errors import DataError, described
from llava_rad.evaluation.boxes import SaidBoxes, read_boxes
from llava_rad.evaluation.rexrank import holds_rexrank, rexrank_records
from llava_rad.metrics.result import check_pairs
from llava_rad.names import one_line, plain_text
from llava_rad.observations import OBSERVATIONS
from llava_rad.readers import (
    TABLE_ENDINGS,
    is_missing,
    parse_json,
    read_json,
    read_json_lines,
    read_parquet,
    read_table,
)
from llava_rad.wording import counted, listed, verb

# White space but for tab and line ends, and characters that no terminal or parser agrees on.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REMEDY = (
    'Give lines such as {"id": ..., "prediction": ..., "reference": ...}, a JSON list of such '
    "objects, or a table"
)
_SPELLINGS: dict[str, str] = {name.casefold(): name for name in OBSERVATIONS}


@dataclass(frozen=True)
class Columns:
    """What the fields of a file of predictions are called in it.

    Attributes:
        id: what pairs are matched by.
        prediction: the generated texts.
        reference: the true texts.
        patient: the patients' ids; a file may be without.
    """

    id: str = "id"
    prediction: str = "prediction"
    reference: str = "reference"
    patient: str = "patient_id"


@dataclass(frozen=True)
class Prediction:
    """One generated report and the true one.

    Attributes:
        id: what the pair is matched by.
        prediction: the generated text.
        reference: the true text.
        labels: CheXpert observations of the study, 1 present, 0 absent, -1 uncertain; may be empty.
        image: path of the image, if the file names one; relative to the file's folder.
        patient: the patient's id, if the file names it.
        language: of the reference, such as ``"en"``, if the file says.
        section: of the report that the reference is, such as ``"findings"``, if the file says.
        sex: ``"M"`` or ``"F"``, if the file says.
        age: in years, if the file says.
        view: of the image, such as ``"PA"``, if the file says.
        source: the data set that the study comes from, if the file says.
        boxes: of the generated text, if the file has some, each with its sentence.
        reference_boxes: the true ones.
    """

    id: str
    prediction: str
    reference: str
    labels: dict[str, float]
    image: Path | None
    patient: str | None
    language: str | None
    section: str | None = None
    sex: str | None = None
    age: float | None = None
    view: str | None = None
    source: str | None = None
    boxes: SaidBoxes = ()
    reference_boxes: SaidBoxes = ()


@dataclass(frozen=True)
class Predictions:
    """The rows of a file, in its order.

    Attributes:
        path: the file; None for texts that were given in memory.
        rows: at least one.
        notes: what was changed while reading, for the reader of the scores.
    """

    path: Path | None
    rows: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the file, for people."""
        return "given texts" if self.path is None else self.path.name

    @property
    def predictions(self) -> list[str]:
        """The generated texts."""
        return [row.prediction for row in self.rows]

    @property
    def references(self) -> list[str]:
        """The true texts."""
        return [row.reference for row in self.rows]

    @property
    def languages(self) -> list[str]:
        """The languages that rows name."""
        return sorted({row.language for row in self.rows if row.language})

    @property
    def sections(self) -> list[str]:
        """The sections that rows name."""
        return sorted({row.section for row in self.rows if row.section})

    def other_sections(self, section: str | None) -> list[str]:
        """A warning where rows name another section than the one that is compared."""
        others = [name for name in self.sections if name != section]
        if section is None or not others:
            return []
        return [f"the file says that its references are {', '.join(others)}, not {section}"]


def read_predictions(path: Path, columns: Columns = Columns()) -> Predictions:
    """Read lines or rows with an id, a generated and a true text.

    Optional fields are ``labels`` (an object of CheXpert observations; a table may have a column
    for each instead; capitals aside), ``image``, ``patient_id``, ``language``, ``section``, and
    for subgroups ``sex``, ``age``, ``view`` and ``source``, and ``boxes`` and ``reference_boxes``
    (:func:`llava_rad.evaluation.boxes.read_boxes`); others are left alone. Control characters
    become spaces and halves of characters question marks; both are counted.

    Args:
        path: ``.csv``, ``.tsv`` (also gzipped) or ``.parquet``; ``.json`` in ReXrank's form, an
            object of studies, or a list of objects; any other is read as JSON lines.
        columns: names of the fields.

    Raises:
        DataError: there is no such file, it is empty, a line is not such an object, a column is
            missing, or an id comes twice.
    """
    rows: list[Prediction] = []
    changed: list[str] = []
    halves: list[None] = []
    respelt: set[str] = set()
    for where, record, labels in _records(path, lambda: halves.append(None)):
        texts = {}
        for field in ("prediction", "reference"):
            texts[field] = _clean(_text(record, columns, field, where), changed)
        image = record.get("image")
        image = None if is_missing(image) else image
        if not (image is None or isinstance(image, str)) or "\0" in (image or ""):
            raise _wrong("image", image, "a path", where)
        rows.append(
            Prediction(
                id=_id(record, columns, where),
                prediction=texts["prediction"],
                reference=texts["reference"],
                labels=_labels(labels, where, respelt),
                image=path.parent / image if image else None,
                patient=_optional(record, columns.patient, where),
                language=_optional(record, "language", where),
                section=_optional(record, "section", where),
                sex=parse_sex(_optional(record, "sex", where)),
                age=_age(record, where),
                view=_optional(record, "view", where),
                source=_optional(record, "source", where),
                boxes=_boxes(record, "boxes", where),
                reference_boxes=_boxes(record, "reference_boxes", where),
            )
        )
    _check_rows([row.id for row in rows], path)
    notes = _notes(changed)
    if halves:
        halved = counted(len(halves), "text")
        notes.append(f"half characters in {halved} were read as question marks")
    if respelt:
        notes.append(f"labels that differ only in capitals are one: {', '.join(sorted(respelt))}")
    return Predictions(path, tuple(rows), tuple(notes))


def given_predictions(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    patients: Sequence[str | None] | None = None,
    language: str | None = None,
) -> Predictions:
    """Texts in memory, numbered from 1.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        patients: whose each study is; None or NaN where it is not known.
        language: of the references, where known.

    Raises:
        MetricError: the texts are not two equally long, non-empty lists of strings.
        DataError: there are more or fewer patients than texts.
    """
    check_pairs(predictions, references)
    patients = None if patients is None else list(patients)  # a column of a table has its own index
    if patients is not None and len(patients) != len(references):
        raise DataError(
            f"{len(patients)} patients for {len(references)} texts",
            remedy="Give one for each text, in their order",
            kind="other_length",
        )
    changed: list[str] = []
    rows = [
        Prediction(
            id=str(i + 1),
            prediction=_clean(plain_text(prediction), changed),
            reference=_clean(plain_text(reference), changed),
            labels={},
            image=None,
            patient=None if patients is None or is_missing(str(patients[i])) else str(patients[i]),
            language=language,
        )
        for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
    ]
    return Predictions(None, tuple(rows), tuple(_notes(changed)))


def read_reports(path: Path, columns: Columns = Columns()) -> dict[str, str]:
    """Read training reports, by id: lines or rows with ``id`` and ``reference``.

    Raises:
        DataError: as for :func:`read_predictions`.
    """
    rows = [
        (_id(record, columns, where), _text(record, columns, "reference", where))
        for where, record, _ in _records(path, lambda: None)
    ]
    _check_rows([id for id, _ in rows], path)
    return {id: _CONTROL.sub(" ", text) for id, text in rows}


def _clean(text: str, changed: list[str]) -> str:
    clean = _CONTROL.sub(" ", text)
    changed += [text] if clean != text else []
    return clean


def _notes(changed: list[str]) -> list[str]:
    if not changed:
        return []
    return [f"control characters in {counted(len(changed), 'text')} were read as spaces"]


def _records(
    path: Path, replace_surrogates: Callable[[], None]
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yield (file and line, fields, labels); of a table, labels are columns or JSON in one."""
    name = one_line(str(path))
    if path.name.lower().endswith(".json") and _begins_a_list(path):
        entries = read_json(
            path,
            expect=list,
            remedy=_REMEDY,
            kind="not_json",
            unique_keys=True,
            replace_surrogates=replace_surrogates,
        )
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                raise _wrong(f"entry {number}", entry, "an object", name)
            yield f"{name}: entry {number}", entry, entry.get("labels")
        return
    if path.name.lower().endswith(".json") and holds_rexrank(path):
        for where, record in rexrank_records(path):
            yield where, record, None
        return
    if not path.name.lower().endswith(TABLE_ENDINGS):
        lines = read_json_lines(path, remedy=_REMEDY, replace_surrogates=replace_surrogates)
        for line, record in lines:
            yield f"{name}:{line}", record, record.get("labels")
        return
    table: Iterator[tuple[str, dict[str, Any]]]
    if path.name.lower().endswith(".parquet") and path.is_file():
        table = ((f"{name}:{number}", row) for number, row in read_parquet(path))
    else:
        table = ((row.where, dict(row)) for row in read_table(path))
    for where, row in table:
        labels = row.get("labels")
        if isinstance(labels, str) and labels:
            labels = parse_json(labels, where=where, remedy="Give labels as JSON")
        elif "labels" not in row:
            labels = {
                column: _number(cell)
                for column, cell in row.items()
                if column.casefold() in _SPELLINGS
            }
        yield where, row, labels


def _begins_a_list(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1000).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    except OSError:
        return False


def _number(cell: Any) -> Any:
    """The number in a cell of text; what is none is refused where labels are read."""
    try:
        return float(cell) if isinstance(cell, str) and cell else cell
    except ValueError:
        return cell


def _text(record: dict[str, Any], columns: Columns, field: str, where: str) -> str:
    value = _value(record, columns, field, where)
    if not isinstance(value, str):
        raise _wrong(getattr(columns, field), value, "one text", where)
    return value


def _id(record: dict[str, Any], columns: Columns, where: str) -> str:
    value = _value(record, columns, "id", where)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong(columns.id, value, "a text or a whole number", where)
    return str(value)


def _value(record: dict[str, Any], columns: Columns, field: str, where: str) -> Any:
    name = getattr(columns, field)
    if name not in record:
        raise DataError(
            f"the field '{name}' is missing",
            where=where,
            remedy=f"{listed(sorted(record), 'field')}; name the one to take with "
            f"--{field} NAME, or add '{name}'",
            kind="missing_field",
        )
    return record[name]


def _labels(labels: Any, where: str, respelt: set[str]) -> dict[str, float]:
    labels = labels or {}
    if not isinstance(labels, dict):
        raise _wrong("labels", labels, "an object of observations", where)
    values: dict[str, float] = {}
    for name, value in labels.items():
        if is_missing(value):
            continue
        if not isinstance(value, int | float) or value not in (1, 0, -1):
            raise _wrong(f"labels: {name}", value, "1, 0, -1 or null", where)
        known = _SPELLINGS.get(str(name).casefold()) or str(name)
        if known != name:
            respelt.add(f"{name!r} as {known!r}")
        if values.setdefault(known, float(value)) != value:
            raise _wrong(f"labels: {name}", value, "what the same label says elsewhere", where)
    return values


def _boxes(record: dict[str, Any], field: str, where: str) -> SaidBoxes:
    value = record.get(field)
    if isinstance(value, str) and value:  # of a table
        value = parse_json(value, where=where, remedy=f"Give {field} as JSON")
    return read_boxes(None if is_missing(value) else value, where)


def _optional(record: dict[str, Any], field: str, where: str) -> str | None:
    value = record.get(field)
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong(field, value, "a text", where)
    return str(value)


def _age(record: dict[str, Any], where: str) -> float | None:
    """Years; None where there are none, or words that are no age."""
    value = record.get("age")
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong("age", value, "a number of years", where)
    return parse_age(value)


def _check_rows(ids: list[str], path: Path) -> None:
    if not ids:
        raise DataError("the file has no rows", where=path, remedy=_REMEDY, kind="empty_file")
    twice = [id for id, count in Counter(ids).items() if count > 1]
    if twice:
        named = ", ".join(twice[:5]) + (" ..." if len(twice) > 5 else "")
        raise DataError(
            f"{counted(len(twice), 'id')} {verb(len(twice), 'comes', 'come')} more than once: "
            f"{named}",
            where=path,
            remedy="Give each pair its own id",
            kind="duplicate_id",
        )


def _wrong(field: str, value: Any, expected: str, where: str) -> DataError:
    return DataError(
        f"'{field}' should be {expected}, got {described(value)}",
        where=where,
        remedy="Join or choose among several" if isinstance(value, list) else "Correct the line",
        kind="wrong_type",
    )
