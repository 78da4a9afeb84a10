"""The report training program in tests: where it is and what it leaves."""

from pathlib import Path

from llava_rad.training.run_log import read_metrics

PROGRAM = Path(__file__).parents[1] / "training" / "train_report.py"

metrics = read_metrics
