"""What the training of a report model is made of: settings, samples, batches, checkpoints, log.

``training/train_report.py`` puts these parts together.
"""

from llava_rad.training.batches import MicroBatch, TrainingBatches, collate
from llava_rad.training.checkpoints import Checkpoint, find_checkpoints, save_checkpoint
from llava_rad.training.config import (
    DataConfig,
    DropoutConfig,
    ReportTrainingConfig,
    SourceConfig,
    StageConfig,
)
from llava_rad.training.order import BatchOrder
from llava_rad.training.samples import ReportSample, ReportSamples

__all__ = [
    "BatchOrder",
    "Checkpoint",
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
    "find_checkpoints",
    "save_checkpoint",
]
