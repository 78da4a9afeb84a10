"""The report training program in tests: where it is and what it leaves."""

from pathlib import Path

from llava_rad.runs.log import read_metrics

PROGRAM = Path(__file__).parents[2] / "training" / "train_report.py"

metrics = read_metrics
