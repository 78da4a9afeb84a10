"""What the training of a report model is made of: settings, samples, batches, log.

``training/train_report.py`` puts these parts together.
"""

from llava_rad.report_training.batches import MicroBatch, TrainingBatches, collate
from llava_rad.report_training.config import (
    DataConfig,
    DropoutConfig,
    ReportTrainingConfig,
    SourceConfig,
    StageConfig,
)
from llava_rad.report_training.samples import ReportSample, ReportSamples

__all__ = [
    "DataConfig",
    "DropoutConfig",
    "MicroBatch",
    "ReportSample",
    "ReportSamples",
    "ReportTrainingConfig",
    "SourceConfig",
    "StageConfig",
    "TrainingBatches",
    "collate",
]
