"""``report.html``: an evaluation as one self-contained page, without any file beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava_rad.appearance.pages import fill_page, picture_uri
from llava_rad.errors import ImageError
from llava_rad.evaluation.error_page import errors_section
from llava_rad.evaluation.evaluation import Evaluation, versions
from llava_rad.evaluation.labels import BASELINE_NAMES, key_label, metric_label, value_label
from llava_rad.metrics.label_f1 import GROUPS, MEASURES, POLICIES
from llava_rad.metrics.score import DEFINITIONS, LOWER_IS_BETTER, RANGES
from llava_rad.observations import FIVE, OBSERVATIONS
from llava_rad.statistics import Interval

IMAGE_SIDE = 384
_BINS = 24


@dataclass(frozen=True)
class Bar:
    """One row of the metrics' chart; positions are shares of the axis, in [0, 1]."""

    label: str
    text: str
    interval: str
    at: float
    low: float | None
    high: float | None
    baselines: dict[str, tuple[float, str]]


def render_page(
    evaluation: Evaluation,
    *,
    cases: int = 20,
    generation: Mapping[str, Any] | None = None,
    control: Mapping[str, Any] | None = None,
) -> str:
    """The page, as HTML.

    Args:
        evaluation: what it shows.
        cases: how many of the worst and of the best pairs it lists, with their images.
        generation: what wrote the predictions, as
            :meth:`~llava_rad.evaluation.split_reports.SplitReports.facts` gives it.
        control: whether the texts depend on the image, as ``image_control.json`` holds it.
    """
    order, ordered_by = _order(evaluation)
    return fill_page(
        "llava_rad.evaluation",
        "page.html.jinja",
        e=evaluation,
        title=_title(evaluation, generation),
        made=_made(generation),
        section=evaluation.section.replace("_", " "),
        control=None if control is None else _control(control),
        published=_published(evaluation),
        groups=[_group(evaluation, name) for name in evaluation.shown],
        baseline_names={name: BASELINE_NAMES[name] for name in evaluation.baselines.headlines()},
        class_tables=_class_tables(evaluation),
        primary=_primary(evaluation),
        policies=[policy.replace("_", " ") for policy in POLICIES],
        measures=[measure.replace("f1", "F1") for measure in MEASURES],
        class_groups=list(GROUPS),
        lengths=_lengths(evaluation),
        calibration=_calibration(evaluation),
        by_reference=_by_reference(evaluation),
        errors=errors_section(evaluation),
        cases=[_case(evaluation, i, rank) for rank, i in _ends(order, cases)],
        ordered_by=ordered_by,
        left_out={metric_label(name): why for name, why in evaluation.scores.left_out.items()},
        versions=versions(),
    )


def _title(e: Evaluation, generation: Mapping[str, Any] | None) -> str:
    if generation is None:
        return e.predictions.name
    split = generation["split"]
    whose = "all studies" if split == "all" else f"{split} split"
    return f"{generation['model']} on {generation['manifest']}, {whose}"


def _made(generation: Mapping[str, Any] | None) -> str:
    """How the predictions were written, as far as that is known."""
    if generation is None:
        return "The file of predictions does not say which model wrote them."
    beams = generation["settings"]["num_beams"]
    how = "greedy decoding" if beams == 1 else f"{beams} beams"
    return f"Written with {how}, in {generation['precision']}."


def _control(control: Mapping[str, Any]) -> dict[str, Any]:
    """The image control: its verdict, and what the primary value gains over each wrong image."""
    depends = control["depends_on_the_image"]
    rows = []
    for each in control["controls"].values():
        gain = each["gains"].get(control["primary"])
        interval = gain and gain["interval"]
        rows.append(
            {
                "image": each["image"],
                "identical": f"{each['identical_texts']} of {control['count']} "
                f"({100 * each['identical_share']:.0f} %)",
                "gain": f"{gain['gain']:+.3f}" if gain else "",
                "interval": f"{interval['low']:+.3f} to {interval['high']:+.3f}"
                if interval
                else "",
                "p": f"{gain['p']:.4f}" if gain else "",
            }
        )
    return {
        "depends": depends,
        "verdict": control["verdict"],
        "primary": key_label(control["primary"]),
        "rows": rows,
    }


def _published(e: Evaluation) -> dict[str, Any] | None:
    """The columns of the published table that was followed, and all that its preset set."""
    if e.preset is None:
        return None
    facts = e.preset.facts()
    rows = [
        {
            "name": row["name"],
            "number": "" if row["number"] is None else f"{row['number']:.3f}",
            "what": row["missing"]
            or f"{row['printed']}: {key_label(row['value'])}"
            + ("" if row["scale"] == 1 else f", times {row['scale']:g}"),
        }
        for row in e.published()
    ]
    return {**facts, "rows": rows}


def _span(name: str) -> float:
    return RANGES.get(name, 1.0)


def _number(value: float, name: str = "") -> str:
    return f"{value:.1f}" if RANGES.get(name, 1.0) == 100 else f"{value:.3f}"


def _share(value: float, name: str) -> float:
    return float(np.clip(value / _span(name), 0, 1))


def _group(e: Evaluation, name: str) -> dict[str, Any]:
    result = e.scores.results[name]
    baselines = e.baselines.headlines()
    bars = []
    for value in e.shown[name]:
        number = result.values[value]
        interval = e.intervals[name].get(value)
        key = f"{name}/{value}"
        marks = {
            baseline: (_share(values[key], name), _number(values[key], name))
            for baseline, values in baselines.items()
            if key in values
        }
        bars.append(
            Bar(
                label=value_label(value),
                text=_number(number, name),
                interval=_interval_text(interval, name),
                at=_share(number, name),
                low=_share(interval.low, name) if interval else None,
                high=_share(interval.high, name) if interval else None,
                baselines=marks,
            )
        )
    return {
        "name": metric_label(name),
        "definition": DEFINITIONS[name],
        "facts": {key: value for key, value in result.facts.items() if key != "range"},
        "notes": result.notes,
        "bars": bars,
        "lower": name in LOWER_IS_BETTER,
        "top": _span(name),
    }


def _primary(e: Evaluation) -> dict[str, str]:
    """The primary value, as a tile shows it."""
    metric, _, value = e.primary.partition("/")
    if metric not in e.shown:
        return {"text": "not computed", "label": key_label(e.primary)}
    text = _number(e.scores.results[metric].values[value], metric)
    interval = _interval_text(e.intervals[metric].get(value), metric)
    label = key_label(e.primary)
    return {"text": text, "label": f"{label} ({interval})" if interval else label}


def _interval_text(interval: Interval | None, name: str = "") -> str:
    if interval is None:
        return ""
    return f"{_number(interval.low, name)} – {_number(interval.high, name)}"


def _class_tables(e: Evaluation) -> list[dict[str, Any]]:
    tables = []
    for name in ("chexbert", "chexpert_rules"):
        if name not in e.scores.results:
            continue
        values, intervals = e.scores.results[name].values, e.intervals[name]
        rows = []
        for observation in OBSERVATIONS:
            policies = []
            for policy in POLICIES:
                key = f"{policy}/class/{observation}"
                numbers = [_number(values[f"{key}/{measure}"]) for measure in MEASURES]
                policies.append([*numbers, str(int(values[f"{key}/support"]))])
            key = f"{POLICIES[0]}/class/{observation}/f1"
            interval = intervals.get(key)
            rows.append(
                {
                    "name": observation,
                    "five": observation in FIVE,
                    "policies": policies,
                    "at": values[key],
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                }
            )
        averages = [
            {
                "name": average,
                "groups": [
                    [_number(values[f"{policy}/{group}/{average}/{m}"]) for m in MEASURES]
                    for group in GROUPS
                    for policy in POLICIES
                ],
            }
            for average in ("micro", "macro", "weighted", "samples")
        ]
        tables.append({"name": metric_label(name), "rows": rows, "averages": averages})
    return tables


def _lengths(e: Evaluation) -> dict[str, Any]:
    words = {
        "prediction": [len(text.split()) for text in e.predictions.predictions],
        "reference": [len(text.split()) for text in e.predictions.references],
    }
    longest = max(1, *words["prediction"], *words["reference"])
    # A single endless text must not squeeze all others into one bar.
    most = max(1, int(np.percentile(words["prediction"] + words["reference"], 99.5)))
    edges = np.linspace(0, most + 1, _BINS + 1)
    counts = {
        name: np.histogram(np.clip(values, 0, most), bins=edges)[0]
        for name, values in words.items()
    }
    tallest = max(1, *(int(c.max()) for c in counts.values()))
    return {
        "bins": [
            {"prediction": float(p) / tallest, "reference": float(r) / tallest}
            for p, r in zip(counts["prediction"], counts["reference"], strict=True)
        ],
        "tallest": tallest,
        "ticks": [
            {"words": words, "at": words / (most + 1)}
            for words in sorted({round(most * share / 4) for share in range(5)})
        ],
        "clipped": longest > most,
        "mean": {name: f"{np.mean(values):.1f}" for name, values in words.items()},
        "median": {name: f"{np.median(values):.0f}" for name, values in words.items()},
    }


def _calibration(e: Evaluation) -> dict[str, Any] | None:
    stated = e.stated()
    if stated is None:
        return None
    # No Finding is not stated but left over, and would flatten the scale.
    names = OBSERVATIONS[:-1]
    mine, theirs = stated[..., : len(names)].mean(axis=1)
    top = max(0.05, float(max(mine.max(), theirs.max())))
    rows = [
        {
            "name": name,
            "prediction": float(mine[i] / top),
            "reference": float(theirs[i] / top),
            "texts": {"generated": f"{100 * mine[i]:.1f} %", "true": f"{100 * theirs[i]:.1f} %"},
        }
        for i, name in enumerate(names)
    ]
    return {"rows": rows, "top": f"{100 * top:.0f} %"}


def _by_reference(e: Evaluation) -> dict[str, Any] | None:
    parts = e.by_reference()
    if not parts or e.normal is None:
        return None
    rows = []
    for name, shown in e.shown.items():
        for value in shown:
            key = f"{name}/{value}"
            cells = {part: _number(values[key], name) for part, values in parts.items()}
            rows.append({"value": key_label(key), **cells})
    counts = {"normal": int(e.normal.sum()), "abnormal": int((~e.normal).sum())}
    return {"rows": rows, "parts": list(parts), "counts": counts}


def _order(e: Evaluation) -> tuple[list[int], str]:
    """Pairs from the worst to the best, and what that is judged by."""
    preferred = (("radgraph", "radgraph_f1"), ("rouge", "rougeL"), ("bleu_coco", "bleu_1"))
    first = next(iter(e.scores.results))
    known = [key for key in preferred if key[0] in e.scores.results]
    name, value = known[0] if known else (first, next(iter(e.scores.results[first].per_pair)))
    sign = -1 if name in LOWER_IS_BETTER else 1
    order = np.argsort(sign * e.scores.results[name].per_pair[value], kind="stable")
    return list(map(int, order)), key_label(f"{name}/{value}")


def _ends(order: list[int], cases: int) -> list[tuple[str, int]]:
    if len(order) <= 2 * cases:
        half = (len(order) + 1) // 2
        return [("worst" if n < half else "best", i) for n, i in enumerate(order)]
    best = order[len(order) - cases :]
    return [("worst", i) for i in order[:cases]] + [("best", i) for i in best]


def _case(e: Evaluation, i: int, rank: str) -> dict[str, Any]:
    row = e.predictions.rows[i]
    radgraph = e.scores.results.get("radgraph")
    details = radgraph.details[i] if radgraph is not None else None
    found = e.observations(i)
    image, problem = _image(row.image)
    return {
        "id": row.id,
        "rank": rank,
        "kind": "" if e.normal is None else ("normal" if e.normal[i] else "abnormal"),
        "prediction": _pieces(details["prediction"]) if details else [(row.prediction, "")],
        "reference": _pieces(details["reference"]) if details else [(row.reference, "")],
        "observations": found if any(found.values()) else {},
        "values": [
            (key_label(key), _number(v, key.split("/")[0])) for key, v in e.pair_values(i).items()
        ],
        "image": image,
        "problem": problem,
        "empty": not row.prediction.strip(),
        "boxes": [
            {
                "kind": kind,
                "of": sentence,
                "style": f"left:{100 * box.x_min:.2f}%;top:{100 * box.y_min:.2f}%;"
                f"width:{100 * (box.x_max - box.x_min):.2f}%;"
                f"height:{100 * (box.y_max - box.y_min):.2f}%",
            }
            for kind, boxes in (("predicted", row.boxes), ("true", row.reference_boxes))
            for sentence, box in boxes
        ],
    }


def _pieces(side: dict[str, Any]) -> list[tuple[str, str]]:
    """A text cut into pieces of (text, fate); of nested entities the outer one shows."""
    tokens = side["tokens"].split()
    pieces: list[tuple[str, str]] = []
    at = 0
    for entity in sorted(side["entities"], key=lambda x: (x["start"], -x["end"])):
        if entity["start"] < at:
            continue
        if entity["start"] > at:
            pieces.append((" ".join(tokens[at : entity["start"]]), ""))
        at = entity["end"] + 1
        pieces.append((" ".join(tokens[entity["start"] : at]), entity["fate"]))
    if at < len(tokens):
        pieces.append((" ".join(tokens[at:]), ""))
    return pieces


def _image(path: Path | None) -> tuple[str, str]:
    """A radiograph as a data URI, or why it cannot be shown."""
    if path is None:
        return "", ""
    from llava_rad.images import load_radiograph

    try:
        return picture_uri(load_radiograph(path).pixels, IMAGE_SIDE), ""
    except ImageError as error:
        return "", str(error)
