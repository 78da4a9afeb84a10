"""Rewards computed in processes of their own, while the model writes the next reports."""

import contextlib
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from accelerate import Accelerator

from llava_rad.errors import LlavaRadError, TrainingError
from llava_rad.metrics.result import Floats
from llava_rad.metrics.score import MetricSettings
from llava_rad.report_training.config import ReportTrainingConfig
from llava_rad.report_training.rewards import Rewards
from llava_rad.runs.together import in_all
from llava_rad.started_processes import StartedProcesses


class Scored(NamedTuple):
    """What a process has found out about some texts.

    Attributes:
        parts: of the reward, by name, [texts] each.
        values: of the metrics over all these texts, by ``metric/value``, where they were asked for.
    """

    parts: dict[str, Floats]
    values: dict[str, float]


class RewardWorkers(StartedProcesses):
    """Processes that score texts; for use in a ``with`` block, with which they end.

    Args:
        names: of the parts of the reward.
        metric: whose values over many texts are asked for, if any.
        count: how many processes.
        device: where they compute metrics that are networks.

    Raises:
        LlavaRadError: what a metric lacks, such as its weights.
    """

    def __init__(self, names: Sequence[str], metric: str | None, count: int, device: str) -> None:
        super().__init__(_work, [(tuple(names), metric, device)] * count)
        self._asked: deque[Connection] = deque()
        self._turn = 0

    def ask(self, texts: Sequence[str], true: Sequence[str], *, over_all: bool = False) -> None:
        """Have texts scored by the next process; :meth:`answer` gives the result.

        Args:
            texts: written.
            true: of the same studies.
            over_all: give the metrics' values over all of them too.
        """
        connection = list(self._processes)[self._turn % len(self._processes)]
        self._turn += 1
        self._send(connection, (list(texts), list(true), over_all))
        self._asked.append(connection)

    def answer(self) -> Scored:
        """The result of the first question that has no answer yet.

        Raises:
            LlavaRadError: a metric cannot be computed, or the process has ended.
        """
        found: Scored = self._receive(self._asked.popleft())
        return found

    def ended(self, number: int, code: int | None) -> TrainingError:
        """The error for a process that has ended by itself."""
        return TrainingError(
            f"a process that computes rewards has ended (exit code {code})",
            remedy="Its own message says why; without one, memory may have run out: use fewer "
            "reinforce.workers",
            kind="process_ended",
        )


def _work(connection: Connection, names: Sequence[str], metric: str | None, device: str) -> None:
    """What a process does: load, say that it is ready, then answer until nobody asks any more."""
    # Signals may go to the whole group: the step that its run finishes first needs this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    # Whoever started this process is gone where nothing can be sent or received any more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            rewards = Rewards(names, metric, MetricSettings(device=device))
            rewards(["No effusion."], ["No effusion."])
            rewards.over_all(["No effusion."], ["No effusion."])
            connection.send(None)
        except LlavaRadError as error:
            connection.send(error)
            return
        while True:
            texts, true, over_all = connection.recv()
            try:
                values = rewards.over_all(texts, true) if over_all else {}
                connection.send(Scored(rewards(texts, true), values))
            except LlavaRadError as error:
                connection.send(error)


@contextlib.contextmanager
def reward_workers(
    config: ReportTrainingConfig, accelerator: Accelerator
) -> Iterator[RewardWorkers | None]:
    """The workers of each process of a run; None where no stage learns from rewards.

    They are there from the beginning, so that a run does not fail for a metric after hours.

    Raises:
        LlavaRadError: what a metric lacks, in all processes.
    """
    if "reinforce" not in config.stages:
        yield None
        return
    settings = config.reinforce
    metric = None if settings.choose_by == "reward" else settings.choose_by.partition("/")[0]
    device = str(accelerator.device)
    workers = in_all(
        accelerator,
        lambda: RewardWorkers(settings.rewards.names, metric, settings.workers, device),
    )
    with workers:
        yield workers
