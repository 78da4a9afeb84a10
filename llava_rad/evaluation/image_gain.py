"""What metrics gain from the right image: the measure of whether a text depends on its image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llava_rad.evaluation.baselines import score_each
from llava_rad.evaluation.labels import key_label, value_label
from llava_rad.evaluation.primary import (
    PRIMARY,
    PairedTest,
    paired_tests,
    require_computed,
    shown_values,
    with_primary,
)
from llava_rad.evaluation.table import text_table
from llava_rad.metrics.result import MetricResult
from llava_rad.metrics.score import LOWER_IS_BETTER, Scorer, headline_values
from llava_rad.statistics import LEVEL, RESAMPLES, SIGNIFICANT, Units
from llava_rad.wording import counted

CONTROLS = {
    "other_patient": "another patient's image",
    "noise": "noise",
    "blank": "a blank image",
    "text_only": "the mean of the training images",
}
"""The wrong images that texts are written with, and what they are called."""

# BLEU without a match is some 1e-16, not 0; a gain of that size is none.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Gain:
    """What one value gains from the right image.

    Attributes:
        right: the value with the right image.
        control: the value with the wrong one.
        test: how much better the right one is (above 0 is better, whatever the metric), with its
            interval and p-values.
    """

    right: float
    control: float
    test: PairedTest

    @property
    def positive(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        interval = self.test.difference.interval
        return interval is not None and interval.low > _NOTHING


@dataclass(frozen=True)
class Control:
    """One kind of wrong image.

    Attributes:
        gains: by ``metric/value``, the primary one first.
        identical: studies whose text is the one with the right image, white space aside.
    """

    gains: dict[str, Gain]
    identical: int


@dataclass(frozen=True)
class ImageControl:
    """Whether texts depend on the image.

    Attributes:
        count: studies compared.
        units: that were resampled: patients, or studies where no patient is known.
        primary: the value that the verdict rests on, as ``metric/value``.
        controls: by name.
        left_out: why a metric was not computed, by name.
        resamples: of the intervals.
    """

    count: int
    units: Units
    primary: str
    controls: dict[str, Control]
    left_out: dict[str, str]
    resamples: int

    @property
    def tested(self) -> Gain | None:
        """The primary gain over another patient's image; None where it was not computed."""
        return self.controls["other_patient"].gains.get(self.primary)

    @property
    def depends(self) -> bool:
        """Whether the primary value gains from the right image over another patient's.

        To tell an X-ray from noise is not to read it, so noise and blank images do not count. The
        interval of the gain must be above 0 and its p-value small.
        """
        gain = self.tested
        return gain is not None and gain.positive and gain.test.p <= SIGNIFICANT

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        identical, gain = self.controls["other_patient"].identical, self.tested
        if identical == self.count:
            return (
                "The text does not depend on the image: with another patient's image every text "
                "is the same."
            )
        name = key_label(self.primary)
        if gain is None:
            return (
                f"It is not tested whether the text depends on the image: {name}, the primary "
                "metric, was not computed; declare one that can be with --primary."
            )
        difference = gain.test.difference.difference
        how = f"{_signed(difference)} (95 % interval {_interval(gain)}, p = {gain.test.p:.4f})"
        if gain.test.difference.interval is None:
            how = f"{_signed(difference)} on {self.units}, which has no interval"
        if self.depends:
            return (
                f"The text depends on the image: the gain of {name}, the primary metric, from the "
                f"right image over another patient's is {how}."
            )
        return (
            f"It is not shown that the text depends on what the image shows: the gain of {name}, "
            f"the primary metric, from the right image over another patient's is {how}, though "
            f"{self.count - identical} of {self.count} texts differ."
        )


def measure_control(
    texts: Mapping[str, Sequence[str]],
    references: Sequence[str],
    scorer: Scorer,
    *,
    patients: Sequence[str | None],
    primary: str = PRIMARY,
    languages: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ImageControl:
    """Score texts written with the right and with wrong images against the same references.

    Args:
        texts: of ``right``, ``other_patient`` and any others of :data:`CONTROLS`, one a study in
            the same order.
        references: the true texts.
        scorer: the metrics.
        patients: of each study; None where it is not known.
        primary: the value that the verdict rests on, as ``metric/value``.
        languages: the languages of the references.
        resamples: of the paired bootstrap and of randomisation.
        seed: of both.
        progress: told what is being computed.

    Raises:
        MetricError: there is no such primary value, or no metric, or not a required one, can be
            computed.
        WeightsError: weights are damaged, or a required metric's are missing.
    """
    asked = scorer.metrics
    scorer = with_primary(scorer, primary)
    scores = scorer(texts["right"], references, languages=languages, progress=progress)
    require_computed(scores, asked, primary)
    if progress:
        progress("the metrics of wrong images")
    units = Units.of(patients)
    shown = shown_values(scores.results, asked, primary)

    def gains(wrong: Mapping[str, MetricResult]) -> dict[str, Gain]:
        right = scores.results
        better = {name: (wrong if name in LOWER_IS_BETTER else right)[name] for name in right}
        worse = {name: (right if name in LOWER_IS_BETTER else wrong)[name] for name in right}
        tests = paired_tests(
            better, worse, shown, units, primary=primary, resamples=resamples, seed=seed
        )
        mine, theirs = headline_values(right), headline_values(wrong)
        return {key: Gain(mine[key], theirs[key], test) for key, test in tests.items()}

    names = [name for name in CONTROLS if name in texts]
    found = score_each(
        scorer.only(tuple(scores.results)), [texts[name] for name in names], references
    )
    return ImageControl(
        count=len(references),
        units=units,
        primary=primary,
        controls={
            name: Control(
                gains(results),
                sum(
                    mine.split() == theirs.split()
                    for mine, theirs in zip(texts["right"], texts[name], strict=True)
                ),
            )
            for name, results in zip(names, found, strict=True)
        },
        left_out=scores.left_out,
        resamples=resamples,
    )


def control_to_json(result: ImageControl) -> dict[str, Any]:
    """All numbers, as ``image_control.json`` holds them."""
    return {
        "depends_on_the_image": None if result.tested is None else result.depends,
        "verdict": result.verdict,
        "count": result.count,
        "primary": result.primary,
        "intervals": {
            "method": f"paired percentile bootstrap over {result.units}",
            "unit": result.units.name,
            "units": result.units.count,
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
                        "gain": gain.test.difference.difference,
                        **{
                            k: v
                            for k, v in asdict(gain.test.difference).items()
                            if k != "difference"
                        },
                        "role": gain.test.role,
                        "p": gain.test.p,
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
                _signed(gain.test.difference.difference),
                _interval(gain),
                gain.test.role,
                f"{gain.test.p:.4f}",
                "yes" if gain.positive else "no",
            ]
            for key, gain in control.gains.items()
        ]
        head = ["metric", "value", "right image", name.replace("_", " "), "gain"]
        head += ["95 % interval", "role", "p", "above 0"]
        blocks.append(
            f"right image against {CONTROLS[name]}: {_identical(control, result.count)}\n\n"
            f"{text_table(head, rows)}"
        )
    how = (
        f"Intervals and p-values by resampling and swapping {result.units}. The primary value is "
        "tested alone, the exploratory ones are corrected among themselves (Holm)."
    )
    return "\n\n".join([*blocks, how, result.verdict])


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
        f"{counted(result.count, 'study', 'studies')} (split {facts['split']}), "
        f"`{facts['model']}`, {facts['precision']}. Every study was also reported on "
        "with all its pictures exchanged and its text context kept. Gain: how much better the "
        "value is with the right image, with "
        f"the 95 % interval of a paired bootstrap of {result.resamples} resamples of "
        f"{result.units}. The primary value, declared before, is in the first row and tested "
        "alone; the others are exploratory.",
        "",
        "| metric | value | right image | "
        + " | ".join(f"gain over {CONTROLS[name]}" for name in controls)
        + " |",
        "|---|---|---|" + "---|" * len(controls),
    ]
    for key in keys:
        gains = [control.gains[key] for control in controls.values()]
        cells = [
            f"{_signed(gain.test.difference.difference)} ({_interval(gain) or 'no interval'})"
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
    interval = gain.test.difference.interval
    return f"{_signed(interval.low)} to {_signed(interval.high)}" if interval else ""


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # no -0.0000


def _identical(control: Control, count: int) -> str:
    return (
        f"{control.identical} of {counted(count, 'text')} identical "
        f"({100 * control.identical / count:.1f} %)"
    )
