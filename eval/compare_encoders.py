r"""Compare encoders on several tasks: one table, with intervals and paired significance.

    python eval/compare_encoders.py configs/eval/mini.yaml [key=value ...]

The configuration names encoders (as the other programs do: a name, a folder, a hub id, "random:E",
"pixels") and tasks (labels, a recorded column, or masks). The output folder gets comparison.md,
.csv, .html and .json. The test predictions of each encoder and task are kept there too: a run that
was stopped goes on, and a further encoder is added without repeating the others.

The table goes to standard output, progress to standard error. An encoder that is not on this
machine and cannot be fetched is named and left out; --require makes that an error.
Several processes: accelerate launch eval/compare_encoders.py ... (or torchrun on CPUs).
Exit codes: 0 done, 1 an error in data or weights, 2 wrong usage or a wrong setting.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llava_rad.config import Count, Seed, check_ranges, load_config, to_dict
from llava_rad.ending import program_ending
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.outputs import own_shared_results
from llava_rad.probing.comparison import comparison_files, save_comparison, to_markdown
from llava_rad.probing.judging import EncoderConfig, Judge, require_own_names
from llava_rad.probing.tasks import TaskConfig
from llava_rad.processes import process_state

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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
    resamples: Count = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        require_own_names("encoders", [e.name for e in self.encoders])
        require_own_names("tasks", [t.name for t in self.tasks])
        if self.reference not in (None, *(e.name for e in self.encoders)):
            raise ConfigError(
                f"reference is {self.reference!r}",
                remedy=f"Use one of {', '.join(e.name for e in self.encoders)}",
            )


@app.command(help=__doc__, no_args_is_help=True)
def main(
    config: Annotated[Path, typer.Argument(help="YAML, such as those of configs/eval.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where an encoder cannot be loaded.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files there, whoever wrote them.")
    ] = False,
) -> None:
    """Load, run the tasks, compare, write, print."""
    with (
        program_ending("predictions that are finished stay, the same command goes on from there"),
        contextlib.ExitStack() as stack,
    ):
        settings = load_config(CompareConfig, config, overrides or [])
        inputs = [config, *(path for task in settings.tasks for path in task.manifests)]
        stack.enter_context(
            own_shared_results(
                settings.output,
                comparison_files("comparison"),
                inputs,
                what="comparison",
                overwrite=overwrite,
            )
        )

        # 1. Every task with every encoder.
        judge = Judge(settings.tasks, settings.output / "predictions", settings.cache, say)
        for entry in settings.encoders:
            judge.load(entry, require=require)
        if not judge.facts:
            raise WeightsError(
                "none of the encoders could be loaded",
                where=config,
                remedy="Fetch one of them as the lines above say",
            )

        # 2. Values, intervals, differences.
        comparison = judge.compare(
            settings.reference or settings.encoders[0].name,
            resamples=settings.resamples,
            seed=settings.seed,
        )

        # 3. The table in its formats.
        if process_state().is_main_process:
            save_comparison(
                comparison, settings.output / "comparison", settings.title, to_dict(settings)
            )
            print(to_markdown(comparison), end="")
            say(f"written to {settings.output}: comparison.md, .csv, .html, .json")


def say(line: str) -> None:
    """Progress, from the first process alone."""
    if process_state().is_main_process:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    app()
