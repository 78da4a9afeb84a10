"""Compare encoders on several tasks: one table, with intervals and paired significance.

    python eval/compare_encoders.py mini
    python eval/compare_encoders.py mine.yaml resamples=2000 output=runs/mine

The configuration names encoders (mini, a name, a folder, a hub id, "random:E" for E with random
weights, "pixels") and tasks (labels, a recorded column, or masks). The output folder gets
comparison.md, .csv, .html and .json. The test predictions of each encoder and task are kept there
too: the same command resumes a stopped run, and a further encoder is added without repeating the
others.

The table goes to standard output, progress to standard error. An encoder that is not on this
machine and cannot be fetched is named and left out; --require makes that an error.
Several processes: `accelerate launch eval/compare_encoders.py ...` (or torchrun on CPUs).
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import contextlib
from typing import Annotated

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import Config, Overrides, Overwrite
from llava_rad.config import load_config, to_dict
from llava_rad.ending import program_ending
from llava_rad.errors import WeightsError
from llava_rad.programs import find_config


def main(
    config: Config,
    overrides: Overrides = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where an encoder cannot be loaded.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Load, run the tasks, compare, write, print."""
    with (
        program_ending("predictions that are finished stay, the same command goes on from there"),
        contextlib.ExitStack() as stack,
    ):
        # Heavy imports wait until the options are read.
        from llava_rad.comparisons import CompareConfig
        from llava_rad.outputs import own_shared_results
        from llava_rad.probing.comparison import comparison_files, save_comparison, to_markdown
        from llava_rad.probing.judging import Judge
        from llava_rad.processes import process_state

        file = find_config(config, "eval")
        settings = load_config(CompareConfig, file, overrides or [])
        stack.enter_context(
            own_shared_results(
                settings.output,
                comparison_files("comparison"),
                [file, *(path for task in settings.tasks for path in task.manifests)],
                what="comparison",
                overwrite=overwrite,
            )
        )

        # 1. Every task with every encoder.
        judge = Judge(settings.tasks, settings.output / "predictions", settings.cache, say_once)
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
            say_once(f"written to {settings.output}: comparison.md, .csv, .html, .json")


app = program_app(main, __doc__, "eval/compare_encoders.py")

if __name__ == "__main__":
    app()
