"""What trainings share: folder, settings, inputs, checkpoints, log, signals, order, processes.

A program is started by :func:`launch.run_program`, owns its folder (:mod:`together`), compares
what it is resumed with (:mod:`settings`, :mod:`inputs`), keeps :mod:`checkpoints` and a metric
:mod:`log` with its :mod:`curves`, and meets its other processes at the border of each step
(:mod:`stopping`). Batches follow :mod:`order`; :mod:`checks` stop a run that has gone wrong.
:mod:`loss_scale` is for float16.
"""

from llava_rad.runs.checkpoints import Checkpoint, CheckpointWriter, find_checkpoints
from llava_rad.runs.order import BatchOrder

__all__ = ["BatchOrder", "Checkpoint", "CheckpointWriter", "find_checkpoints"]
