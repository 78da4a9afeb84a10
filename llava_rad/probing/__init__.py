"""Judging frozen encoders: linear probes, k-NN, segmentation heads, and baselines to beat.

A task gives an :class:`Outcome`, the predictions on the test images, from which every number with
its interval and every difference between encoders follows.
"""

from llava_rad.probing.attentive_probe import (
    AttentiveProbe,
    fit_attentive_probe,
    load_attentive_probe,
)
from llava_rad.probing.baselines import PixelEncoder, load_judged, randomised
from llava_rad.probing.classification import (
    ProbeResult,
    SplitVectors,
    run_attentive_probe,
    run_knn,
    run_linear_probe,
    split_vectors,
)
from llava_rad.probing.examples import Example, Examples, read_examples
from llava_rad.probing.features import Features, extract_features
from llava_rad.probing.finetuning import fine_tune
from llava_rad.probing.knn import nearest_neighbours
from llava_rad.probing.linear_probe import LinearProbe, fit_linear_probe, load_probe
from llava_rad.probing.outcome import Estimate, Outcome, load_outcome
from llava_rad.probing.record import (
    MEASURES,
    encoder_facts,
    interval,
    measure_label,
    number,
    to_plain,
)
from llava_rad.probing.targets import Target, column_target, label_names, label_targets
from llava_rad.processes import process_state, share_jobs

__all__ = [
    "MEASURES",
    "AttentiveProbe",
    "Estimate",
    "Example",
    "Examples",
    "Features",
    "LinearProbe",
    "Outcome",
    "PixelEncoder",
    "ProbeResult",
    "SplitVectors",
    "Target",
    "column_target",
    "encoder_facts",
    "extract_features",
    "fine_tune",
    "fit_attentive_probe",
    "fit_linear_probe",
    "interval",
    "label_names",
    "label_targets",
    "load_attentive_probe",
    "load_judged",
    "load_outcome",
    "load_probe",
    "measure_label",
    "nearest_neighbours",
    "number",
    "process_state",
    "randomised",
    "read_examples",
    "run_attentive_probe",
    "run_knn",
    "run_linear_probe",
    "share_jobs",
    "split_vectors",
    "to_plain",
]
