r"""Compare encoders on several tasks: one table, with intervals and paired significance.

    python eval/compare_encoders.py configs/eval/mini.yaml [key=value ...]

The configuration names encoders (as the other programs do: a name, a folder, a hub id, "random:E",
"pixels") and tasks (labels, a recorded column, or masks). The output folder gets comparison.md,
.csv, .html and .json. The test predictions of each encoder and task are kept there too: a run that
was stopped goes on, and a further encoder is added without repeating the others.

The table goes to standard output, progress to standard error. An encoder that is not on this
machine and cannot be fetched is named and left out; --require makes that an error.
Several processes: accelerate launch eval/compare_encoders.py ... (or torchrun on CPUs).
Exit codes: 0 done, 1 an error in configuration, data or weights, 2 wrong usage.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.config import load_config, to_dict
from llava_rad.data import hash_manifest
from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, LlavaRadError, WeightsError
from llava_rad.metrics import holm
from llava_rad.probing import (
    Outcome,
    encoder_facts,
    load_judged,
    load_outcome,
    process_state,
    to_plain,
)
from llava_rad.probing.comparison import Comparison, Pair, to_csv, to_html, to_markdown
from llava_rad.probing.tasks import TaskConfig, run_task

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class EncoderConfig:
    """One row of the table.

    Attributes:
        name: of the row.
        encoder: what ``--encoder`` of the other programs takes.
        image_size: side of the input in pixels, where it shall not be the encoder's own.
    """

    name: str
    encoder: str
    image_size: int | None = None


@dataclass(frozen=True)
class CompareConfig:
    """A whole comparison.

    Attributes:
        output: folder of the results.
        encoders: rows of the table.
        tasks: columns of the table.
        reference: name of the encoder that the others are compared with; the first by default.
        cache: folder for vectors and patch tokens.
        title: of the page.
        resamples: of the test patients.
        seed: of the resamples.
    """

    output: Path
    encoders: list[EncoderConfig]
    tasks: list[TaskConfig]
    reference: str | None = None
    cache: Path = Path("runs/features")
    title: str = "Comparison of encoders"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for what, names in (
            ("encoders", [e.name for e in self.encoders]),
            ("tasks", [t.name for t in self.tasks]),
        ):
            if not names or len(set(names)) < len(names):
                raise ConfigError(
                    f"{what} are {', '.join(names) or 'missing'}",
                    remedy="Give at least one, each with a name of its own",
                )
        if self.reference not in (None, *(e.name for e in self.encoders)):
            raise ConfigError(
                f"reference is {self.reference!r}",
                remedy=f"Use one of {', '.join(e.name for e in self.encoders)}",
            )


@dataclass
class Judged:
    """The encoders that could be loaded, and what they did."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@app.command(help=__doc__, no_args_is_help=True)
def main(
    config: Annotated[Path, typer.Argument(help="YAML, such as those of configs/eval.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where an encoder cannot be loaded.")
    ] = False,
) -> None:
    """Load, run the tasks, compare, write, print."""
    try:
        settings = load_config(CompareConfig, config, overrides or [])

        # 1. Every task with every encoder.
        judged = Judged()
        for entry in settings.encoders:
            try:
                encoder = load_judged(
                    entry.encoder, image_size=entry.image_size, device=process_state().device
                )
            except WeightsError as error:
                if require:
                    raise
                judged.left_out[entry.name] = str(error)
                say(f"left out: {entry.name}. {error}")
                continue
            judged.facts[entry.name] = encoder_facts(encoder)
            for task in settings.tasks:
                say(f"{entry.name}: {task.name}")
                outcome = finished_or_run(encoder, task, settings)
                judged.outcomes.setdefault(task.name, {})[entry.name] = outcome
        if not judged.facts:
            raise WeightsError(
                "none of the encoders could be loaded",
                where=config,
                remedy="Fetch one of them as the lines above say",
            )

        # 2. Values, intervals, differences.
        reference = settings.reference or settings.encoders[0].name
        if reference not in judged.facts:
            reference = next(iter(judged.facts))
            say(f"the reference is {reference}")
        comparison = compare(judged, reference, settings)

        # 3. The table in its formats.
        if process_state().is_main_process:
            write(comparison, settings)
            print(to_markdown(comparison), end="")
            say(f"written to {settings.output}: comparison.md, .csv, .html, .json")
    except LlavaRadError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def finished_or_run(encoder: ImageEncoder, task: TaskConfig, settings: CompareConfig) -> Outcome:
    """The test predictions, from the output folder if the same was done before."""
    asked = {name: value for name, value in to_dict(task).items() if name != "name"}
    asked["manifests"] = [hash_manifest(path) for path in task.manifests]
    asked["encoder"] = encoder.fingerprint()
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    path = settings.output / "predictions" / f"{key}.npz"
    found = path.is_file()
    process_state().wait_for_everyone()  # before the first process may write it
    if found:
        return load_outcome(path)
    outcome = run_task(encoder, task, settings.cache, say)
    if process_state().is_main_process:
        outcome.save(path)
    return outcome


def compare(judged: Judged, reference: str, settings: CompareConfig) -> Comparison:
    """Every value with its interval, and all pairs of encoders on each task's headline."""
    how = {"resamples": settings.resamples, "seed": settings.seed}
    pairs: list[Pair] = []
    names = [name for name in judged.facts if name != reference] + [reference]
    for task, outcomes in judged.outcomes.items():
        found = []
        for first, second in itertools.combinations(names, 2):
            measure = outcomes[first].headline
            found.append((first, second, outcomes[first].compare(outcomes[second], **how)[measure]))
        corrected = holm([difference.p for *_, difference in found])
        pairs += [
            Pair(task, outcomes[first].headline, first, second, difference, p)
            for (first, second, difference), p in zip(found, corrected, strict=True)
        ]
    kinds: Mapping[str, Outcome] = {
        task: next(iter(outcomes.values())) for task, outcomes in judged.outcomes.items()
    }
    return Comparison(
        encoders=judged.facts,
        estimates={
            task: {name: outcome.estimates(**how) for name, outcome in outcomes.items()}
            for task, outcomes in judged.outcomes.items()
        },
        headlines={task: kind.headline for task, kind in kinds.items()},
        lower_is_better=tuple(t for t, k in kinds.items() if k.headline in k.lower_is_better),
        pairs=tuple(pairs),
        reference=reference,
        left_out=judged.left_out,
    )


def write(comparison: Comparison, settings: CompareConfig) -> None:
    """The four files."""
    content = {
        "settings": to_dict(settings),
        "encoders": comparison.encoders,
        "tasks": {
            task: {name: to_plain(estimates) for name, estimates in by_encoder.items()}
            for task, by_encoder in comparison.estimates.items()
        },
        "pairs": [
            {**asdict(pair), "difference": to_plain({"": pair.difference})[""]}
            for pair in comparison.pairs
        ],
        "left_out": comparison.left_out,
    }
    settings.output.mkdir(parents=True, exist_ok=True)
    for ending, text in (
        ("json", json.dumps(content, indent=1, allow_nan=False) + "\n"),
        ("md", to_markdown(comparison)),
        ("csv", to_csv(comparison)),
        ("html", to_html(comparison, settings.title)),
    ):
        (settings.output / f"comparison.{ending}").write_text(text, encoding="utf-8")


def say(line: str) -> None:
    """Progress, from the first process alone."""
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app()
