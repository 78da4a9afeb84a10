"""Both training programs, run in this process or in others, with runs of a few steps."""

import importlib.util
from pathlib import Path

from helpers.pretraining_runs import tiny_config

from llava_rad.config import save_config
from llava_rad.dinov2.config import PretrainingConfig
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.runs.launch import run_program

ROOT = Path(__file__).parents[2]


class Program:
    """One of the programs with the arguments of a run of 9 or 12 steps.

    Attributes:
        stage: that the run has.
        images: folder of its images.
    """

    def __init__(self, name, stage, config_class, arguments, images):
        self.path = ROOT / "training" / f"{name}.py"
        self.stage = stage
        self.config_class = config_class
        self.images = images
        self._arguments = arguments
        spec = importlib.util.spec_from_file_location(name, self.path)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)

    def arguments(self, output, *more):
        return [*self._arguments, f"output={output}", *more]

    def run(self, output, *more):
        """Run it in this process and return its exit code."""
        try:
            path, *overrides = self.arguments(output, *more)
            run_program(self.module.main, self.config_class, Path(path), overrides)
        except SystemExit as ended:
            return ended.code
        raise AssertionError("the program did not exit")


def report_program(parts, settings):
    """Alignment alone, from the parts and settings of the report training's tests."""
    (parts / "empty.yaml").touch()
    arguments = [str(parts / "empty.yaml"), *settings, "stage=align", "trackers=[]"]
    return Program("train_report", "align", ReportTrainingConfig, arguments, parts / "images")


def pretraining_program(start):
    """From the images and encoder that ``make_start`` makes."""
    save_config(tiny_config(start, start / "unused", trackers=[]), start / "tiny.yaml")
    arguments = [str(start / "tiny.yaml")]
    return Program("pretrain_encoder", "pretrain", PretrainingConfig, arguments, start / "images")
