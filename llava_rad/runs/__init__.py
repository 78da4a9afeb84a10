"""What trainings share: the order of samples, checkpoints, checks of numbers, collectives."""

from llava_rad.runs.checkpoints import Checkpoint, find_checkpoints, save_checkpoint
from llava_rad.runs.order import BatchOrder

__all__ = ["BatchOrder", "Checkpoint", "find_checkpoints", "save_checkpoint"]
