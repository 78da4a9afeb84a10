"""``llava-rad plan``: what a training will take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.cli.common import user_errors, write_out
from llava_rad.cli.options import Config, Overrides, PrintFormat

if TYPE_CHECKING:
    from llava_rad.dinov2.plan import PretrainingPlan
    from llava_rad.report_training.plan import Plan


def plan(
    config: Config,
    overrides: Overrides = None,
    studies: Annotated[
        int,
        typer.Option(min=1, help="How many studies an epoch has; of a pretraining, images."),
    ] = 270_000,
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
        llava-rad plan rad_dino_vitb14_518 --studies 838336 --processes 64
    """
    with user_errors():
        from llava_rad.config import load_config
        from llava_rad.extras import require

        require("train", "a plan of a training")
        from llava_rad.runs.gpus import UTILISATION

        file, is_pretraining = _find(config)
        utilisation = utilisation or UTILISATION
        result: PretrainingPlan | Plan
        if is_pretraining:
            from llava_rad.dinov2.config import PretrainingConfig
            from llava_rad.dinov2.plan import plan_pretraining

            result = plan_pretraining(
                load_config(PretrainingConfig, file, overrides or []),
                images=studies,
                gpu=gpu,
                processes=processes or 1,
                utilisation=utilisation,
            )
        else:
            from llava_rad.report_training.config import ReportTrainingConfig
            from llava_rad.report_training.plan import plan as plan_run

            result = plan_run(
                load_config(ReportTrainingConfig, file, overrides or []),
                studies=studies,
                gpu=gpu,
                processes=processes,
                utilisation=utilisation,
            )
        write_out(json.dumps(result.to_dict()) if format == "json" else result.text())


def _find(config: str) -> tuple[Path, bool]:
    """The file of a configuration, and whether it is one of a pretraining."""
    from llava_rad.config import read_values
    from llava_rad.programs import config_names, find_config

    known = config_names()
    if f"encoder/{config}" in known and f"report/{config}" not in known:
        return known[f"encoder/{config}"], True
    file = find_config(config, "report")
    return file, bool({"backbone", "crops", "schedule"} & read_values(file).keys())
