"""Errors by subgroup as HTML: a section of ``report.html``, and the page of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_rad.appearance.pages import fill_page
from llava_rad.evaluation import error_changes, observation_errors
from llava_rad.evaluation.error_changes import Change, ErrorChanges
from llava_rad.evaluation.error_examples import LONGEST, MOST, Examples
from llava_rad.evaluation.evaluation import Evaluation, versions
from llava_rad.evaluation.labels import metric_label
from llava_rad.evaluation.observation_errors import FEW, ROWS, ErrorMatrix, Share
from llava_rad.evaluation.predictions import Prediction
from llava_rad.evaluation.subgroups import Subgroups
from llava_rad.observations import OBSERVATIONS
from llava_rad.statistics import SIGNIFICANT, Interval
from llava_rad.wording import counted

MOST_LISTED = 30
"""Lines of the table of the clearest changes."""


@dataclass(frozen=True)
class Compared:
    """A second system on the first one's studies.

    Attributes:
        name: of its file.
        rows: its predictions, in the order of the studies.
        changes: from the first system to it.
    """

    name: str
    rows: Sequence[Prediction]
    changes: ErrorChanges


def errors_section(e: Evaluation) -> dict[str, Any] | None:
    """What ``errors.html.jinja`` shows of an evaluation; None where there are no labels."""
    if not e.errors:
        return None
    matrix = e.errors[0]
    mine, theirs = matrix.stated.predicted, matrix.stated.expected
    ids = [row.id for row in e.predictions.rows]
    examples, links = _examples(
        "errors",
        matrix.subgroups,
        {"missed": theirs & ~mine, "invented": mine & ~theirs},
        Examples(ids, matrix.units, e.predictions.references, e.predictions.predictions),
        ("true", "generated"),
    )
    tables = [
        {
            "kind": kind,
            "rows": [
                {
                    "name": name,
                    "cells": [
                        _share(
                            getattr(cells[i], kind),
                            links.get((fate, i, g), ""),
                        )
                        for g, cells in enumerate(matrix.cells)
                    ],
                }
                for i, name in enumerate(ROWS)
            ],
        }
        for kind, fate in (("found", "missed"), ("invented", "invented"))
    ]
    return {
        **_facts(matrix),
        "intervals": observation_errors.interval_method(matrix.units),
        "tables": tables,
        "examples": examples,
    }


def render_changes(first: str, rows: Sequence[Prediction], others: Sequence[Compared]) -> str:
    """The page of a comparison, as HTML.

    Args:
        first: name of the file that the others are compared with.
        rows: its predictions, in the order of the studies.
        others: at least one.
    """
    matrix = others[0].changes.first
    return fill_page(
        "llava_rad.evaluation",
        "error_changes.html.jinja",
        **_facts(matrix),
        first=first,
        others=[_compared(f"errors{n}", rows, other) for n, other in enumerate(others, start=1)],
        studies=counted(len(rows), "study", "studies"),
        intervals=error_changes.interval_method(matrix.units),
        test=error_changes.p_value_method(matrix.units),
        significant=SIGNIFICANT,
        listed=MOST_LISTED,
        versions=versions(),
    )


def _facts(matrix: ErrorMatrix) -> dict[str, Any]:
    return {
        "labeler": metric_label(matrix.stated.labeler),
        "policy": matrix.stated.policy.replace("_", " "),
        "heads": [
            {"column": column, "groups": [(g.value, len(g.studies)) for g in groups]}
            for column, groups in matrix.subgroups.columns().items()
        ],
        "notes": matrix.subgroups.notes,
        "few": FEW,
        "units": matrix.units,
        "most": MOST,
        "longest": LONGEST,
    }


def _share(share: Share, link: str) -> dict[str, Any]:
    return {
        "value": _percent(share.value),
        "interval": _span(share.interval),
        "counts": f"{share.count} of {share.cases}",
        "few": share.few,
        "link": link,
    }


def _compared(prefix: str, rows: Sequence[Prediction], other: Compared) -> dict[str, Any]:
    changes = other.changes
    first, second = changes.first.stated, changes.second.stated
    theirs = first.expected
    gain = second.predicted & ~first.predicted
    loss = first.predicted & ~second.predicted
    references = [row.reference for row in rows]
    texts = [[row.prediction for row in some] for some in (rows, other.rows)]
    examples, links = _examples(
        prefix,
        changes.subgroups,
        {
            "found by the second alone": gain & theirs,
            "found by the first alone": loss & theirs,
            "invented by the second alone": gain & ~theirs,
            "invented by the first alone": loss & ~theirs,
        },
        Examples([row.id for row in rows], changes.first.units, references, *texts),
        ("true", "first", "second"),
    )
    tables = [
        {
            "kind": kind,
            "rows": [
                {
                    "name": name,
                    "cells": [
                        _change(
                            getattr(cells[i], kind),
                            links.get((f"{kind} by the second alone", i, g))
                            or links.get((f"{kind} by the first alone", i, g), ""),
                        )
                        for g, cells in enumerate(changes.cells)
                    ],
                }
                for i, name in enumerate(ROWS)
            ],
        }
        for kind in ("found", "invented")
    ]
    clearest = _clearest(changes)
    return {
        "name": other.name,
        "prefix": prefix,
        "tables": tables,
        "examples": examples,
        "tested": changes.tested(),
        "few_cells": sum(change.few for change in changes.all()),
        "clearest": clearest[:MOST_LISTED],
        "below": len(clearest),
        "expected": f"{SIGNIFICANT * changes.tested():.0f}",
        "better": sum(change.verdict == "better" for change in changes.all()),
        "worse": sum(change.verdict == "worse" for change in changes.all()),
    }


def _clearest(changes: ErrorChanges) -> list[dict[str, Any]]:
    """The changes whose uncorrected p-value is below the level, the smallest first."""
    found = []
    for group, cells in zip(changes.subgroups.groups, changes.cells, strict=True):
        for name, cell in zip(ROWS, cells, strict=True):
            for kind in ("found", "invented"):
                change: Change = getattr(cell, kind)
                if change.p is not None and change.p < SIGNIFICANT:
                    before, after = getattr(cell.first, kind), getattr(cell.second, kind)
                    line = {
                        "observation": name,
                        "group": group.name,
                        "kind": kind,
                        "first": _percent(before.value),
                        "second": _percent(after.value),
                        "corrected": _p(change.corrected),
                        **_change(change, ""),
                    }
                    found.append((change.p, line))
    return [line for _, line in sorted(found, key=lambda one: one[0])]


def _change(change: Change, link: str) -> dict[str, Any]:
    interval = change.interval
    return {
        "value": _points(change.difference),
        "interval": "" if interval is None else _span_points(interval),
        "counts": f"+{change.more} −{change.less} of {change.cases}",
        "few": change.few,
        "direction": change.direction,
        "verdict": change.verdict,
        "p": _p(change.p),
        "uncorrected": change.p is not None and change.p < SIGNIFICANT,
        "link": link,
    }


def _examples(
    prefix: str,
    subgroups: Subgroups,
    hits: Mapping[str, NDArray[np.bool_]],
    examples: Examples,
    who: Sequence[str],
) -> tuple[list[dict[str, Any]], dict[tuple[str, int, int], str]]:
    """Lists of examples, and the name of each in the page.

    Args:
        prefix: of the names.
        subgroups: the columns.
        hits: for each fate of an observation the studies that have it [studies, 14].
        examples: finds them.
        who: wrote each of the texts.

    Returns:
        For each observation, by subgroup, the lists that are not empty; the names by fate, place of
        the observation and place of the subgroup.
    """
    found: list[dict[str, Any]] = []
    links: dict[tuple[str, int, int], str] = {}
    for i, observation in enumerate(OBSERVATIONS):
        groups = []
        for g, group in enumerate(subgroups.groups):
            lists = []
            for place, (fate, marked) in enumerate(hits.items()):
                some = examples.of(i, marked[:, i], group.studies)
                if some.count:
                    links[fate, i, g] = link = f"{prefix}-{place}-{i}-{g}"
                    of = [(e.id, list(zip(who, e.texts, strict=True))) for e in some.examples]
                    lists.append({"fate": fate, "link": link, "count": some.count, "of": of})
            if lists:
                groups.append({"name": group.name, "lists": lists})
        if groups:
            found.append({"observation": observation, "groups": groups})
    return found, links


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _percent(share: float | None) -> str:
    """A share as a percentage, one digit behind the point where it is small."""
    if share is None:
        return ""
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    digits = 1 if interval.high < 0.1 else 0
    return f"{100 * interval.low:.{digits}f} – {100 * interval.high:.{digits}f}"


def _points(difference: float | None) -> str:
    if difference is None:
        return ""
    said = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if said[1:] == "0.0" else said


def _span_points(interval: Interval) -> str:
    return f"{_points(interval.low)} to {_points(interval.high)}"
