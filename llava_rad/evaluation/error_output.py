"""Errors by subgroup as files: JSON, CSV, and the page of a comparison."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llava_rad.evaluation import error_changes, observation_errors
from llava_rad.evaluation.error_changes import ErrorChanges, change_rows
from llava_rad.evaluation.error_page import Compared, render_changes
from llava_rad.evaluation.observation_errors import FEW, NO_LABELS, ErrorMatrix, matrix_rows
from llava_rad.evaluation.predictions import Prediction
from llava_rad.outputs import write_result


def write_errors(matrices: Sequence[ErrorMatrix], folder: Path) -> None:
    """Write ``errors.json`` and ``errors.csv`` of one system.

    Args:
        matrices: of the same studies, one for each policy; none where there are no labels.
        folder: made where it is missing.

    Raises:
        DataError: the folder cannot be written.
    """
    rows = [row for matrix in matrices for row in matrix_rows(matrix)]
    first = matrices[0] if matrices else None
    facts = {"intervals": observation_errors.interval_method(first.units)} if first else {}
    _write(folder, first, facts, rows)


def write_changes(
    first: str,
    rows: Sequence[Prediction],
    others: Sequence[tuple[Compared, Sequence[ErrorChanges]]],
    folder: Path,
) -> None:
    """Write ``comparison.html``, ``errors.json`` and ``errors.csv`` of two or more systems.

    Args:
        first: name of the file that the others are compared with.
        rows: its predictions, in the order of the studies.
        others: each with its changes under every policy.
        folder: made where it is missing.

    Raises:
        DataError: the folder cannot be written.
    """
    cells = [
        {"first": first, "second": other.name, **row}
        for other, policies in others
        for changes in policies
        for row in change_rows(changes)
    ]
    matrix = others[0][0].changes.first
    facts = {
        "intervals": error_changes.interval_method(matrix.units),
        "test": error_changes.p_value_method(matrix.units),
        "correction": "Holm, over all tested cells of one second system and one policy",
        "tested": {other.name: other.changes.tested() for other, _ in others},
    }
    _write(folder, matrix, facts, cells)
    page = render_changes(first, rows, [other for other, _ in others])
    write_result(folder / "comparison.html", page)


def _write(
    folder: Path,
    matrix: ErrorMatrix | None,
    facts: dict[str, Any],
    cells: Sequence[dict[str, Any]],
) -> None:
    content = {
        "labeler": matrix.stated.labeler if matrix else None,
        "definitions": observation_errors.DEFINITIONS,
        "unit": matrix.units.name if matrix else None,
        "units": matrix.units.count if matrix else None,
        "few_below": FEW,
        "notes": list(matrix.subgroups.notes) if matrix else [NO_LABELS],
        **facts,
        "cells": cells,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_result(folder / "errors.json", text + "\n")
    write_result(folder / "errors.csv", _csv(cells))


def _csv(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line each under a head; what is not known is left blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    lines: Iterable[Iterable[Any]] = [list(cells[0]), *(c.values() for c in cells)] if cells else []
    for line in lines:
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in line])
    yield text.getvalue()
