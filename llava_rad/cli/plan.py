"""``llava-rad plan``: what a training will take."""

import json
from typing import Annotated

import typer

from llava_rad.cli.common import Format, user_errors, write_out


def plan(
    config: Annotated[
        str, typer.Argument(help="A YAML file, or a name of: llava-rad configs list.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Change a setting.")
    ] = None,
    studies: Annotated[int, typer.Option(min=1, help="Studies of an epoch.")] = 270_000,
    gpu: Annotated[str, typer.Option(help="The kind of GPU.")] = "a100-80gb",
    processes: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the rated operations reached.")
    ] = 0.4,
    format: Annotated[Format, typer.Option(help="text or json.")] = Format.text,
) -> None:
    """Estimate parameters, tokens, memory and hours of a training, without loading weights."""
    with user_errors():
        from llava_rad.config import load_config
        from llava_rad.extras import require
        from llava_rad.programs import find_config

        require("train", "a plan of a training")
        from llava_rad.report_training.config import ReportTrainingConfig
        from llava_rad.report_training.plan import plan as plan_run

        settings = load_config(ReportTrainingConfig, find_config(config, "report"), overrides or [])
        result = plan_run(
            settings, studies=studies, gpu=gpu, processes=processes, utilisation=utilisation
        )
        write_out(json.dumps(result.to_dict()) if format is Format.json else result.text())
