"""``llava-rad plan``: what a training will take."""

import json
from typing import Annotated

import typer

from llava_rad.cli.common import user_errors, write_out
from llava_rad.cli.options import Config, Overrides, PrintFormat


def plan(
    config: Config,
    overrides: Overrides = None,
    studies: Annotated[int, typer.Option(min=1, help="How many studies an epoch has.")] = 270_000,
    gpu: Annotated[str, typer.Option(help="The kind of GPU, such as a100-80gb or h100.")] = (
        "a100-80gb"
    ),
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many GPUs; by default what the settings say.")
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            show_default=False,
            help="The share of the rated operations reached; by default what was measured, 0.29.",
        ),
    ] = None,
    format: PrintFormat = "text",
) -> None:
    """Estimate parameters, tokens, memory and hours of a training, without loading weights.

    Example:
        llava-rad plan vicuna_7b_lora --gpu h100 --processes 8 finetune.micro_batch=8
        llava-rad plan vicuna_7b_lora encoder=mini lora.r=16
    """
    with user_errors():
        from llava_rad.config import load_config
        from llava_rad.extras import require
        from llava_rad.programs import find_config

        require("train", "a plan of a training")
        from llava_rad.report_training.config import ReportTrainingConfig
        from llava_rad.report_training.plan import UTILISATION
        from llava_rad.report_training.plan import plan as plan_run

        settings = load_config(ReportTrainingConfig, find_config(config, "report"), overrides or [])
        result = plan_run(
            settings,
            studies=studies,
            gpu=gpu,
            processes=processes,
            utilisation=utilisation or UTILISATION,
        )
        write_out(json.dumps(result.to_dict()) if format == "json" else result.text())
