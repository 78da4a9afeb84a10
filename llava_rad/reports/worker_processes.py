"""Reports written here, or by several processes of this machine, each with a model of its own.

Both ways give the same reports in the same order: studies are decoded in the batches that one
process would make of them, and whole batches are handed out. Nothing but studies and reports
passes between the processes, so that the one that started them writes the only file.
"""

import contextlib
import functools
import logging
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from llava_rad.data import Study
from llava_rad.errors import LlavaRadError, ModelError
from llava_rad.model import ReportModel
from llava_rad.reports.file import Remembering
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.model_facts import ModelFacts
from llava_rad.reports.report import Report
from llava_rad.reports.study import READERS, Failure, StudyReader, read_study, report_studies
from llava_rad.started_processes import StartedProcesses

#: What became of a study, and what it showed just before it was read.
Result = tuple[Report | Failure, Mapping[str, Any] | None]

# Batches that a process has in hand: one is decoded while the next one is read.
_IN_HAND = 2


class ReportsHere:
    """Writes reports in this process.

    Args:
        model: that writes them.
        settings: of the decoding.
        batch_size: studies decoded together.
        read: how a study becomes what the model is shown.

    Attributes:
        facts: of the model.
    """

    def __init__(
        self,
        model: ReportModel,
        settings: GenerationSettings,
        batch_size: int,
        read: StudyReader = read_study,
    ) -> None:
        self.facts = ModelFacts.of(model)
        self._model, self._settings = model, settings
        self._batch_size, self._read = batch_size, read

    def reports(self, studies: Iterable[Study]) -> Generator[Result, None, None]:
        """A result for each study, in order; the next ones are read meanwhile."""
        remember = Remembering(self._read)
        with contextlib.closing(
            report_studies(
                self._model,
                studies,
                self._settings,
                batch_size=self._batch_size,
                workers=READERS,
                read=remember,
            )
        ) as results:
            for result in results:
                yield result, remember.take(result.study_id)


@dataclass
class _Batch:
    """Studies that a process has in hand.

    Attributes:
        awaited: results that have not come yet.
        results: that have come and are still to be given.
    """

    awaited: int
    results: deque[Result] = field(default_factory=deque)


class ReportsInProcesses(StartedProcesses):
    """Writes reports in processes that it starts, and ends with the block that it is used in.

    Args:
        load: gives the model on a ``device``; called in each process, so it is picklable.
        devices: one for each process; on a CPU the processes share its cores.
        settings: as for :class:`ReportsHere`.
        batch_size: likewise.
        read: likewise; picklable.

    Attributes:
        facts: of the model.

    Raises:
        LlavaRadError: what ``load`` raises in a process.
        ModelError: a process has ended (kind ``process_ended``).
    """

    facts: ModelFacts

    def __init__(
        self,
        load: Callable[..., ReportModel],
        devices: Sequence[str],
        settings: GenerationSettings,
        batch_size: int,
        read: StudyReader = read_study,
    ) -> None:
        self._batch_size = batch_size
        threads = max(1, torch.get_num_threads() // len(devices))
        super().__init__(
            _work,
            [
                (
                    functools.partial(load, device=device),
                    settings,
                    batch_size,
                    read,
                    number,
                    threads,
                )
                for number, device in enumerate(devices)
            ],
        )
        self.facts = self.ready[-1]

    def reports(self, studies: Iterable[Study]) -> Generator[Result, None, None]:
        """A result for each study, in order; for use once.

        Raises:
            LlavaRadError: what goes wrong in a process beside a single study.
            ModelError: a process has ended.
        """
        todo, size = list(studies), self._batch_size
        batches = deque(todo[i : i + size] for i in range(0, len(todo), size))
        in_hand: dict[Connection, deque[_Batch]] = {c: deque() for c in self._processes}
        coming: deque[_Batch] = deque()  # in order, from the first with a result to be given
        told = False
        while True:
            while batches:
                connection, own = min(in_hand.items(), key=lambda item: len(item[1]))
                if len(own) == _IN_HAND:
                    break
                batch = _Batch(len(batches[0]))
                own.append(batch)
                coming.append(batch)
                self._send(connection, batches.popleft())
            if not batches and not told:
                told = True
                for connection in in_hand:
                    self._send(connection, None)
            if not coming:
                return
            ready = wait([connection for connection, own in in_hand.items() if own])
            for connection, own in in_hand.items():
                if connection in ready:
                    own[0].results.append(self._receive(connection))
                    own[0].awaited -= 1
                    if not own[0].awaited:
                        own.popleft()
            while coming:
                while coming[0].results:
                    yield coming[0].results.popleft()
                if coming[0].awaited:
                    break
                coming.popleft()

    def ended(self, number: int, code: int | None) -> ModelError:
        """The error for a process that has ended by itself."""
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return ModelError(
            f"process {number} of {len(self._processes)} has ended {how}",
            remedy="Its own message says why; without one, memory may have run out: start fewer "
            "--processes",
            kind="process_ended",
        )


def _work(
    connection: Connection,
    load: Callable[[], ReportModel],
    settings: GenerationSettings,
    batch_size: int,
    read: StudyReader,
    number: int,
    threads: int,
) -> None:
    """What a process does: load, say what the model is, then a result for each study."""
    if number:  # the first one warns for all
        logging.disable(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held
    torch.set_num_threads(threads)
    # Whoever started this process is gone where nothing can be sent or received any more.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            here = ReportsHere(load(), settings, batch_size, read)
            connection.send(here.facts)
            for result in here.reports(_received(connection)):
                connection.send(result)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except (LlavaRadError, OSError) as error:
            connection.send(error)


def _received(connection: Connection) -> Iterator[Study]:
    """The studies of all batches that come, until None does."""
    for batch in iter(connection.recv, None):
        yield from batch
