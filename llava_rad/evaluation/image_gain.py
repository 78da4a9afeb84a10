"""What metrics gain from the right image: the measure of whether a text depends on its image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llava_rad.errors import MetricError
from llava_rad.evaluation.baselines import score_each
from llava_rad.evaluation.page import value_label
from llava_rad.evaluation.table import text_table
from llava_rad.metrics.result import MetricResult
from llava_rad.metrics.score import HEADLINES, LOWER_IS_BETTER, Scorer, headline_values
from llava_rad.statistics import LEVEL, RESAMPLES, Difference, compare, holm

CONTROLS = {
    "other_patient": "another patient's image",
    "noise": "noise",
    "blank": "a blank image",
}
"""The wrong images that texts are written with, and what they are called."""

SIGNIFICANT = 1 - LEVEL
# BLEU without a match is some 1e-16, not 0; a gain of that size is none.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Gain:
    """What one value gains from the right image.

    Attributes:
        right: the value with the right image.
        control: the value with the wrong one.
        difference: how much better the right one is (above 0 is better, whatever the metric),
            with its interval and p-values.
        p_holm: p-value of randomisation, corrected for the number of values.
    """

    right: float
    control: float
    difference: Difference
    p_holm: float

    @property
    def positive(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        interval = self.difference.interval
        return interval is not None and interval.low > _NOTHING


@dataclass(frozen=True)
class Control:
    """One kind of wrong image.

    Attributes:
        gains: by ``metric/value``.
        identical: studies whose text is the one with the right image, white space aside.
    """

    gains: dict[str, Gain]
    identical: int


@dataclass(frozen=True)
class ImageControl:
    """Whether texts depend on the image.

    Attributes:
        count: studies compared.
        controls: by name.
        left_out: why a metric was not computed, by name.
        resamples: of the intervals.
    """

    count: int
    controls: dict[str, Control]
    left_out: dict[str, str]
    resamples: int

    @property
    def depends(self) -> bool:
        """Whether some value gains from the right image over another patient's.

        To tell an X-ray from noise is not to read it, so noise and blank images do not count. The
        interval of the gain must be above 0, and its p-value hold for the number of values.
        """
        gains = self.controls["other_patient"].gains.values()
        return any(gain.positive and gain.p_holm <= SIGNIFICANT for gain in gains)

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        control = self.controls["other_patient"]
        if self.depends:
            better = sum(gain.positive for gain in control.gains.values())
            return (
                f"The text depends on the image: {better} of {len(control.gains)} values are "
                "better with the right image than with another patient's, with intervals above 0."
            )
        if control.identical == self.count:
            return (
                "The text does not depend on the image: with another patient's image every text "
                "is the same."
            )
        return (
            "It is not shown that the text depends on what the image shows: no value is reliably "
            "better with the right image than with another patient's, though "
            f"{self.count - control.identical} of {self.count} texts differ."
        )


def measure_control(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    scorer: Scorer,
    *,
    languages: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ImageControl:
    """Score texts written with the right and with wrong images against the same references.

    Args:
        texts: of ``right`` and of each of :data:`CONTROLS`, one a study in the same order.
        references: the true texts.
        scorer: the metrics.
        languages: the languages of the references.
        resamples: of the paired bootstrap and of randomisation.
        seed: of both.
        progress: told what is being computed.

    Raises:
        MetricError: no metric, or not a required one, can be computed.
        WeightsError: weights are damaged, or a required metric's are missing.
    """
    scores = scorer(texts["right"], references, languages=languages, progress=progress)
    if not scores.results:
        raise MetricError(
            "no metric could be computed: " + " ".join(scores.left_out.values()),
            remedy="Fetch the weights, or choose metrics that need none",
            kind="nothing_computed",
        )
    if progress:
        progress("the metrics of wrong images")
    found = score_each(
        scorer.only(tuple(scores.results)), [texts[name] for name in CONTROLS], references
    )
    return ImageControl(
        count=len(references),
        controls={
            name: Control(
                _gains(scores.results, results, resamples, seed),
                sum(
                    mine.split() == theirs.split()
                    for mine, theirs in zip(texts["right"], texts[name], strict=True)
                ),
            )
            for name, results in zip(CONTROLS, found, strict=True)
        },
        left_out=scores.left_out,
        resamples=resamples,
    )


def _gains(
    right: Mapping[str, MetricResult],
    wrong: Mapping[str, MetricResult],
    resamples: int,
    seed: int,
) -> dict[str, Gain]:
    better = {name: (wrong if name in LOWER_IS_BETTER else right)[name] for name in right}
    worse = {name: (right if name in LOWER_IS_BETTER else wrong)[name] for name in right}
    values = {name: HEADLINES[name] for name in right}
    differences = compare(better, worse, values, resamples=resamples, seed=seed)
    corrected = holm([difference.p_randomisation for difference in differences.values()])
    mine, theirs = headline_values(right), headline_values(wrong)
    return {
        key: Gain(mine[key], theirs[key], difference, p)
        for (key, difference), p in zip(differences.items(), corrected, strict=True)
    }


def control_to_json(result: ImageControl) -> dict[str, Any]:
    """All numbers, as ``image_control.json`` holds them."""
    return {
        "depends_on_the_image": result.depends,
        "verdict": result.verdict,
        "count": result.count,
        "intervals": {
            "method": "paired percentile bootstrap over studies",
            "level": LEVEL,
            "resamples": result.resamples,
        },
        "controls": {
            name: {
                "image": CONTROLS[name],
                "identical_texts": control.identical,
                "identical_share": control.identical / result.count,
                "gains": {
                    key: {
                        "right": gain.right,
                        "control": gain.control,
                        "gain": gain.difference.difference,
                        **{k: v for k, v in asdict(gain.difference).items() if k != "difference"},
                        "p_holm": gain.p_holm,
                        "above_0": gain.positive,
                    }
                    for key, gain in control.gains.items()
                },
            }
            for name, control in result.controls.items()
        },
        "left_out": result.left_out,
    }


def control_table(result: ImageControl) -> str:
    """A table for each wrong image, and the verdict, for a terminal."""
    blocks = []
    for name, control in result.controls.items():
        rows = [
            [
                *_names(key),
                f"{gain.right:.4f}",
                f"{gain.control:.4f}",
                _signed(gain.difference.difference),
                _interval(gain),
                f"{gain.p_holm:.4f}",
                "yes" if gain.positive else "no",
            ]
            for key, gain in control.gains.items()
        ]
        head = ["metric", "value", "right image", name.replace("_", " "), "gain"]
        head += ["95 % interval", "p Holm", "above 0"]
        blocks.append(
            f"right image against {CONTROLS[name]}: {_identical(control, result.count)}\n\n"
            f"{text_table(head, rows)}"
        )
    return "\n\n".join([*blocks, result.verdict])


def control_markdown(result: ImageControl, facts: Mapping[str, Any]) -> str:
    """A section for a model card.

    Args:
        result: what it says.
        facts: of the generation, with ``model``, ``split`` and ``precision``.
    """
    controls = result.controls
    keys = list(controls["other_patient"].gains)
    lines = [
        "## Does the text depend on the image?",
        "",
        f"**{result.verdict}**",
        "",
        f"{result.count} studies (split {facts['split']}), `{facts['model']}`, "
        f"{facts['precision']}. Every study was also reported on with all its pictures exchanged "
        "and its text context kept. Gain: how much better the value is with the right image, with "
        f"the 95 % interval of a paired bootstrap of {result.resamples} resamples.",
        "",
        "| metric | value | right image | "
        + " | ".join(f"gain over {CONTROLS[name]}" for name in controls)
        + " |",
        "|---|---|---|" + "---|" * len(controls),
    ]
    for key in keys:
        gains = [control.gains[key] for control in controls.values()]
        cells = [
            f"{_signed(gain.difference.difference)} ({_interval(gain) or 'one study'})"
            for gain in gains
        ]
        lines.append(f"| {' | '.join([*_names(key), f'{gains[0].right:.4f}', *cells])} |")
    shares = [f"{100 * c.identical / result.count:.1f} %" for c in controls.values()]
    lines.append(f"| identical texts | | | {' | '.join(shares)} |")
    return "\n".join([*lines, "", "Printed by `eval/image_control.py`.", ""])


def _names(key: str) -> tuple[str, str]:
    metric, value = key.split("/", 1)
    return metric, value_label(value)


def _interval(gain: Gain) -> str:
    interval = gain.difference.interval
    return f"{_signed(interval.low)} to {_signed(interval.high)}" if interval else ""


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # no -0.0000


def _identical(control: Control, count: int) -> str:
    return (
        f"{control.identical} of {count} texts identical ({100 * control.identical / count:.1f} %)"
    )
