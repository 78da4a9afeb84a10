"""The results of an evaluation by name, and how each is known to be one."""

from collections.abc import Callable
from pathlib import Path

from llava_rad.evaluation.rexrank import is_submission
from llava_rad.outputs import has_keys, starts_with

Known = dict[str, Callable[[Path], bool]]

_ERRORS: Known = {
    "errors.json": lambda path: has_keys(path, "cells", "few_below"),
    "errors.csv": lambda path: starts_with(path, "uncertain,subgroup,value,observation"),
}
SCORES: Known = {
    "metrics.json": lambda path: has_keys(path, "metrics", "intervals"),
    "per_sample.jsonl": lambda path: has_keys(path, "id", "prediction", "values", lines=True),
    "report.html": lambda path: starts_with(path, "<title>Findings report"),
    **_ERRORS,
}
COMPARISON: Known = {
    **_ERRORS,
    "comparison.html": lambda path: starts_with(path, "<title>Findings compared"),
}
REPORTS: Known = {
    "reports.jsonl": lambda path: has_keys(path, "study_id", "run", lines=True),
}
GENERATED: Known = {
    **REPORTS,
    "predictions.jsonl": lambda path: has_keys(path, "id", "prediction", "reference", lines=True),
}
SUBMISSION: Known = {"rexrank.json": is_submission}
CONTROL: Known = {
    "image_control.json": lambda path: has_keys(path, "verdict", "controls"),
    "image_control.jsonl": lambda path: has_keys(path, "id", "other_patient", lines=True),
    "image_control.md": lambda path: starts_with(path, "## Does the text depend on the image?"),
}
