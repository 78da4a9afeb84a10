"""Boxes in a file of predictions: read, scored, and told beside the texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llava_rad.boxes import Box
from llava_rad.data import Study
from llava_rad.data.finding_box import of_one_reader
from llava_rad.errors import DataError, described
from llava_rad.evaluation.table import text_table
from llava_rad.metrics import box_overlap as overlap
from llava_rad.metrics import grounded_radfact as radfact
from llava_rad.metrics.box_overlap import BoxBaselines, box_baselines
from llava_rad.metrics.grounded_radfact import Phrase
from llava_rad.metrics.result import MetricResult, json_number
from llava_rad.metrics.score import Scorer
from llava_rad.sentences import sentence_spans
from llava_rad.statistics import Interval, Units, bootstrap
from llava_rad.wording import counted

#: The boxes of a text, each with the sentence that it belongs to (empty where none is named).
SaidBoxes = tuple[tuple[str, Box], ...]

_EDGES = ("x_min", "y_min", "x_max", "y_max")
_SHOWN = {overlap.NAME: overlap.HEADLINES, radfact.NAME: radfact.HEADLINES}
_DEFINITIONS = {overlap.NAME: overlap.DEFINITION, radfact.NAME: radfact.DEFINITION}
_BASELINES = {
    "random_place": "at a random place",
    "centre": "in the centre",
    "mean_box": "the mean box",
    "other_patient": "another patient's",
}


@dataclass(frozen=True)
class BoxEvaluation:
    """What is said of the boxes of a file.

    Attributes:
        results: ``box_overlap``, and ``grounded_radfact`` where RadFact was asked for.
        intervals: for each result and value its bootstrap interval.
        baselines: what boxes score that were placed without looking.
    """

    results: dict[str, MetricResult]
    intervals: dict[str, dict[str, Interval]]
    baselines: BoxBaselines

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``metrics.json``."""
        return {
            **{
                name: {
                    "definition": _DEFINITIONS[name],
                    **result.facts,
                    "values": {
                        value: {
                            "value": json_number(number),
                            "low": json_number(interval.low) if interval else None,
                            "high": json_number(interval.high) if interval else None,
                        }
                        for value, number in result.values.items()
                        for interval in (self.intervals[name].get(value),)
                    },
                }
                for name, result in self.results.items()
            },
            "baselines": {
                "made_of": self.baselines.fixed_from,
                "values": {
                    name: {value: json_number(v) for value, v in result.values.items()}
                    for name, result in self.baselines.results.items()
                },
            },
        }

    @property
    def summary(self) -> str:
        """How many boxes there are, and what the baselines are made of."""
        facts = self.results[overlap.NAME].facts
        counts, of = facts["boxes"], facts["studies_with_boxes"]
        mine, theirs = (
            f"{counts[side]} {what} in {counted(of[side], 'study', 'studies')}"
            for side, what in (("prediction", "predicted"), ("reference", "true"))
        )
        made_of = self.baselines.fixed_from
        if made_of == "training":
            made_of = "training boxes"
        return (
            f"boxes: {mine}, {theirs}; baselines place the predicted ones without looking, made of "
            f"{made_of}"
        )

    def rows(self) -> list[dict[str, str]]:
        """The values that count, as text: result, interval, and a column for each baseline."""
        rows = []
        for name, result in self.results.items():
            values = result.values
            for value in _SHOWN[name]:
                interval = self.intervals[name].get(value)
                rows.append(
                    {
                        "boxes": name,
                        "value": value,
                        "result": f"{values[value]:.4f}",
                        "95 % interval": ""
                        if interval is None
                        else f"{interval.low:.4f}-{interval.high:.4f}",
                        **{
                            _BASELINES[of]: f"{found.values[value]:.4f}"
                            if name == overlap.NAME
                            else ""
                            for of, found in self.baselines.results.items()
                        },
                    }
                )
        return rows

    def table(self) -> str:
        """The summary and the rows, for a terminal."""
        rows = self.rows()
        return "\n".join(
            [self.summary, "", text_table([*rows[0]], [[*row.values()] for row in rows])]
        )


def evaluate_boxes(
    texts: Sequence[tuple[str, str]],
    boxes: Sequence[tuple[SaidBoxes, SaidBoxes]],
    patients: Sequence[str],
    units: Units,
    scorer: Scorer,
    *,
    training: Sequence[Box] = (),
    resamples: int,
    seed: int,
) -> BoxEvaluation | None:
    """Score the boxes of a file; None where no reference has one.

    Args:
        texts: prediction and reference of each pair.
        boxes: the same for their boxes.
        patients: whose each study is.
        units: that the bootstrap draws.
        scorer: its judge reads the phrases, where RadFact is among its metrics.
        training: boxes of training studies, for the baselines.
        resamples: of the bootstrap.
        seed: of bootstrap and baselines.
    """
    predicted = [[box for _, box in mine] for mine, _ in boxes]
    expected = [[box for _, box in theirs] for _, theirs in boxes]
    if not any(expected):
        return None
    results = {overlap.NAME: overlap.box_overlap(predicted, expected)}
    if "radfact" in scorer.metrics:
        pairs = list(zip(texts, boxes, strict=True))
        mine = [phrases(text, said) for (text, _), (said, _) in pairs]
        theirs = [phrases(text, said) for (_, text), (_, said) in pairs]
        results[radfact.NAME] = scorer.grounded_radfact(mine, theirs)
    return BoxEvaluation(
        results,
        bootstrap(results, units, resamples=resamples, seed=seed),
        box_baselines(predicted, expected, patients, training=training, seed=seed),
    )


def phrases(text: str, boxes: SaidBoxes) -> list[Phrase]:
    """The sentences of a text with the boxes that name them."""
    of: dict[str, list[Box]] = {}
    for sentence, box in boxes:
        of.setdefault(" ".join(sentence.split()), []).append(box)
    sentences = (" ".join(text[start:end].split()) for start, end in sentence_spans(text))
    return [(sentence, of.get(sentence, ())) for sentence in sentences]


def read_boxes(value: Any, where: str) -> SaidBoxes:
    """The boxes of a line: a list of objects with four edges and the sentence they belong to.

    Raises:
        DataError: it is none.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(
            f"boxes are {described(value)}",
            where=where,
            remedy="Give a list of objects with x_min, y_min, x_max and y_max",
            kind="wrong_type",
        )
    found = []
    for box in value:
        if not isinstance(box, dict):
            raise DataError(
                f"a box is {described(box)}",
                where=where,
                remedy="Give an object with x_min, y_min, x_max and y_max",
                kind="wrong_type",
            )
        given: dict[str, Any] = {name: box.get(name) for name in _EDGES}
        try:
            edges = Box(**given)
        except DataError as error:
            raise DataError(
                error.what, where=where, remedy=error.remedy, kind=error.kind
            ) from error
        said = box.get("sentence") or box.get("finding") or ""
        if not isinstance(said, str):
            raise DataError(
                f"the sentence of a box is {described(said)}",
                where=where,
                remedy="Give it as a text",
                kind="wrong_type",
            )
        found.append((said, edges))
    return tuple(found)


def boxes_to_json(boxes: SaidBoxes) -> list[dict[str, Any]]:
    """The inverse of :func:`read_boxes`."""
    return [{"sentence": sentence, **asdict(box)} for sentence, box in boxes]


def boxes_of_study(study: Study) -> SaidBoxes:
    """The true boxes of a study's first frontal image, of one reader where there are several."""
    image = next((image for image in study.images if image.view != "lateral"), None)
    found = of_one_reader(image.boxes) if image is not None else []
    return tuple((box.sentence or box.finding, box.box) for box in found)


def boxes_of_report(values: Mapping[str, Any]) -> SaidBoxes:
    """The boxes of a report, from its JSON."""
    if not values.get("grounding"):
        return ()
    # Not above: with it comes torch, which a program's --help has no need of.
    from llava_rad.reports.report import Report

    known = {name: values[name] for name in ("findings", "model", "tokens", "truncated")}
    report = Report(**known, repetitive=values["repetitive"], grounding=values["grounding"])
    return tuple((sentence, box) for sentence, place in report.boxes for box in place.shares())
