"""Independent jobs shared by the processes of one ``accelerate launch``."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env

Job = TypeVar("Job")
Result = TypeVar("Result")


def process_state() -> PartialState:
    """The processes of this run and the device of this one.

    Accelerate joins processes that ``torchrun`` starts on a machine without an accelerator only if
    it is told to use the CPU; else each would do the whole work alone.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=cpu)


def share_jobs(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Do each job in one of the processes, and give all results to all of them.

    A job's result may depend on nothing but the job, so that results are the same whatever the
    number of processes: whole fits are shared, never parts of one.

    Args:
        function: does one job; its result must be picklable.
        jobs: the same in every process.

    Returns:
        The results, in the order of the jobs.
    """
    state = process_state()
    share = range(state.process_index, len(jobs), state.num_processes)
    results = gather_object([(index, function(jobs[index])) for index in share])
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]
