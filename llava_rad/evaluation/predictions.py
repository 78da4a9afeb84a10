"""Reading a file of generated reports: one JSON object a line."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_rad.errors import DataError

# White space but for tab and line ends, and characters that no terminal or parser agrees on.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


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
    """

    id: str
    prediction: str
    reference: str
    labels: dict[str, float]
    image: Path | None
    patient: str | None
    language: str | None


@dataclass(frozen=True)
class Predictions:
    """The rows of a file, in its order.

    Attributes:
        path: the file.
        rows: at least one.
        notes: what was changed while reading, for the reader of the scores.
    """

    path: Path
    rows: tuple[Prediction, ...]
    notes: tuple[str, ...] = ()

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


def read_predictions(path: Path) -> Predictions:
    """Read lines with ``id``, ``prediction`` and ``reference``.

    Optional fields are ``labels`` (an object of CheXpert observations), ``image``, ``patient_id``
    and ``language``; others are left alone. Control characters become spaces, and are counted.

    Raises:
        DataError: there is no such file, it is empty, a line is not such an object, or an id comes
            twice.
    """
    rows: list[Prediction] = []
    changed = 0
    for where, record in read_json_lines(path):
        texts = {}
        for field in ("prediction", "reference"):
            texts[field] = _text(record, field, where)
            clean = _CONTROL.sub(" ", texts[field])
            changed += clean != texts[field]
            texts[field] = clean
        image = record.get("image")
        if image is not None and not isinstance(image, str):
            raise _wrong("image", image, "a path", where)
        rows.append(
            Prediction(
                id=_id(record, where),
                prediction=texts["prediction"],
                reference=texts["reference"],
                labels=_labels(record, where),
                image=path.parent / image if image else None,
                patient=_optional(record, "patient_id"),
                language=_optional(record, "language"),
            )
        )
    _check_ids([row.id for row in rows], path)
    notes = [f"control characters in {changed} texts were read as spaces"] if changed else []
    return Predictions(path, tuple(rows), tuple(notes))


def read_reports(path: Path) -> dict[str, str]:
    """Read training reports, by id: lines with ``id`` and ``reference``.

    Raises:
        DataError: as for :func:`read_predictions`.
    """
    records = list(read_json_lines(path))
    _check_ids([_id(record, where) for where, record in records], path)
    return {
        _id(record, where): _CONTROL.sub(" ", _text(record, "reference", where))
        for where, record in records
    }


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place for messages.

    Raises:
        DataError: there is no such file, it has no lines, or a line is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=path,
            remedy="Give a file of JSON lines",
            kind="unreadable",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the file is not UTF-8 at byte {error.start}",
            where=path,
            remedy="Save it as UTF-8",
            kind="not_utf8",
        ) from error
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"not JSON: {error}",
                where=where,
                remedy="Give one JSON object on each line",
                kind="not_json",
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f"expected an object, got {_kind(record)}",
                where=where,
                remedy='Give lines such as {"id": ..., "prediction": ..., "reference": ...}',
                kind="not_an_object",
            )
        records.append((where, record))
    if not records:
        raise DataError(
            "the file has no lines",
            where=path,
            remedy='Give lines such as {"id": ..., "prediction": ..., "reference": ...}',
            kind="empty_file",
        )
    return records


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
    # Half of a surrogate pair cannot be written to a file or a page.
    return value.encode("utf-8", "replace").decode("utf-8")


def _id(record: dict[str, Any], where: str) -> str:
    value = record.get("id")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _wrong("id", value, "a text or a whole number", where)
    return str(value)


def _labels(record: dict[str, Any], where: str) -> dict[str, float]:
    labels = record.get("labels") or {}
    if not isinstance(labels, dict):
        raise _wrong("labels", labels, "an object of observations", where)
    values = {}
    for name, value in labels.items():
        if value is None:
            continue
        if not isinstance(value, int | float) or value not in (1, 0, -1):
            raise _wrong(f"labels: {name}", value, "1, 0, -1 or null", where)
        values[str(name)] = float(value)
    return values


def _optional(record: dict[str, Any], field: str) -> str | None:
    value = record.get(field)
    return None if value is None else str(value)


def _check_ids(ids: list[str], path: Path) -> None:
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
    found = "nothing" if value is None else _kind(value)
    return DataError(
        f"'{field}' should be {expected}, got {found}",
        where=where,
        remedy="Join or choose among several" if isinstance(value, list) else "Correct the line",
        kind="wrong_type",
    )


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return names.get(type(value), repr(value)[:60])
