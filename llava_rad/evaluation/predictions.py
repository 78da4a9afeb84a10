"""Reading a file of generated reports: one JSON object a line."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError, described
from llava_rad.metrics.result import check_pairs
from llava_rad.names import plain_text
from llava_rad.observations import OBSERVATIONS
from llava_rad.readers import is_missing, read_json_lines

# White space but for tab and line ends, and characters that no terminal or parser agrees on.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REMEDY = 'Give lines such as {"id": ..., "prediction": ..., "reference": ...}'
_SPELLINGS: dict[str, str] = {name.casefold(): name for name in OBSERVATIONS}


@dataclass(frozen=True)
class Prediction:
    """One generated report and the true one.

    Attributes:
        id: what the pair is matched by.
        prediction: the generated text.
        reference: the true text.
        labels: CheXpert observations of the study, 1 present, 0 absent, -1 uncertain; may be empty.
        image: path of the image, if the file names one; relative to the file's folder.
        patient: the patient's id, if the file has ``patient_id``.
        language: of the reference, such as ``"en"``, if the file says.
        section: of the report that the reference is, such as ``"findings"``, if the file says.
    """

    id: str
    prediction: str
    reference: str
    labels: dict[str, float]
    image: Path | None
    patient: str | None
    language: str | None
    section: str | None = None


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


def read_predictions(path: Path) -> Predictions:
    """Read lines with ``id``, ``prediction`` and ``reference``.

    Optional fields are ``labels`` (an object of CheXpert observations, capitals aside), ``image``,
    ``patient_id``, ``language`` and ``section``; others are left alone. Control characters become
    spaces and halves of characters question marks; both are counted.

    Raises:
        DataError: there is no such file, it is empty, a line is not such an object, or an id comes
            twice.
    """
    rows: list[Prediction] = []
    changed: list[str] = []
    halves: list[None] = []
    respelt: set[str] = set()
    lines = read_json_lines(path, remedy=_REMEDY, replace_surrogates=lambda: halves.append(None))
    for line, record in lines:
        where = f"{path}:{line}"
        texts = {}
        for field in ("prediction", "reference"):
            texts[field] = _clean(_text(record, field, where), changed)
        image = record.get("image")
        if not (image is None or isinstance(image, str)) or "\0" in (image or ""):
            raise _wrong("image", image, "a path", where)
        rows.append(
            Prediction(
                id=_id(record, where),
                prediction=texts["prediction"],
                reference=texts["reference"],
                labels=_labels(record, where, respelt),
                image=path.parent / image if image else None,
                patient=_optional(record, "patient_id", where),
                language=_optional(record, "language", where),
                section=_optional(record, "section", where),
            )
        )
    _check_rows([row.id for row in rows], path)
    notes = _notes(changed)
    if halves:
        notes.append(f"half characters in {len(halves)} texts were read as question marks")
    if respelt:
        notes.append(f"labels that differ only in capitals are one: {', '.join(sorted(respelt))}")
    return Predictions(path, tuple(rows), tuple(notes))


def given_predictions(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    patients: Sequence[str] | None = None,
    language: str | None = None,
) -> Predictions:
    """Texts in memory, numbered from 1.

    Args:
        predictions: generated texts.
        references: true texts, in the same order.
        patients: whose each study is, where known.
        language: of the references, where known.

    Raises:
        MetricError: the texts are not two equally long, non-empty lists of strings.
        DataError: there are more or fewer patients than texts.
    """
    check_pairs(predictions, references)
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
            patient=None if patients is None else str(patients[i]),
            language=language,
        )
        for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
    ]
    return Predictions(None, tuple(rows), tuple(_notes(changed)))


def read_reports(path: Path) -> dict[str, str]:
    """Read training reports, by id: lines with ``id`` and ``reference``.

    Raises:
        DataError: as for :func:`read_predictions`.
    """
    lines = read_json_lines(path, remedy=_REMEDY, replace_surrogates=lambda: None)
    rows = [
        (_id(record, f"{path}:{line}"), _text(record, "reference", f"{path}:{line}"))
        for line, record in lines
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
    return [f"control characters in {len(changed)} texts were read as spaces"]


def _text(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise DataError(
            f"the field '{field}' is missing",
            where=where,
            remedy=f"The line has {', '.join(sorted(record)) or 'no fields'}; add '{field}'",
            kind="missing_field",
        )
    value = record[field]
    if not isinstance(value, str):
        raise _wrong(field, value, "one text", where)
    return value


def _id(record: dict[str, Any], where: str) -> str:
    value = record.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong("id", value, "a text or a whole number", where)
    return str(value)


def _labels(record: dict[str, Any], where: str, respelt: set[str]) -> dict[str, float]:
    labels = record.get("labels") or {}
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


def _optional(record: dict[str, Any], field: str, where: str) -> str | None:
    value = record.get(field)
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _wrong(field, value, "a text", where)
    return str(value)


def _check_rows(ids: list[str], path: Path) -> None:
    if not ids:
        raise DataError("the file has no lines", where=path, remedy=_REMEDY, kind="empty_file")
    twice = [id for id, count in Counter(ids).items() if count > 1]
    if twice:
        named = ", ".join(twice[:5]) + (" ..." if len(twice) > 5 else "")
        raise DataError(
            f"{len(twice)} ids come more than once: {named}",
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
