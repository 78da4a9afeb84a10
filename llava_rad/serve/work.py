"""The queue before the models: one thread owns them and takes requests in batches.

A request takes a place before its body is read, so that what waits is bounded, and gives it back
when it is answered or its client has hung up. Reports of one model and the same settings are
decoded together; the text of each does not depend on the others. A request that comes while a
batch is decoded waits for the next one.
"""

import asyncio
import contextlib
import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from llava_rad.data import Study
from llava_rad.model import ReportModel
from llava_rad.reports import (
    Failure,
    GenerationSettings,
    Report,
    StudyRequest,
    report_studies,
)
from llava_rad.serve.request_errors import RequestError

_Value = TypeVar("_Value")

# Seconds that a batch which is not full waits for requests whose pictures are being read.
_GATHER = 0.1


@dataclass(eq=False)
class Task:
    """A function that runs alone."""

    function: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False)
class ReportTask:
    """A report that is to be written, with others of the same model and settings."""

    model: ReportModel
    settings: GenerationSettings
    study: Study
    request: StudyRequest
    follow: Callable[[Sequence[int]], None] | None
    future: "Future[Report | Failure]" = field(default_factory=Future)

    def goes_on(self, ids: Sequence[int]) -> bool:
        """Tell what is written, and whether anybody still waits for it."""
        if self.follow is not None:
            self.follow(ids)
        return not self.future.cancelled()

    def joins(self, other: "Task | ReportTask") -> bool:
        """Whether both may be decoded together."""
        return (
            isinstance(other, ReportTask)
            and self.model is other.model
            and self.settings == other.settings
        )


class Work:
    """The queue and its thread.

    Args:
        batch_size: reports decoded together.
        places: requests that are in hand at a time, from the upload to the answer.
        batch_done: is told the size and the seconds of each batch.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        places: int,
        batch_done: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.batch_size, self.places, self._batch_done = batch_size, places, batch_done
        self.in_hand = 0
        self._preparing = 0
        self._waiting: deque[Task | ReportTask] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 1.0  # of the last batch
        self._thread: threading.Thread | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken."""
        return self._closing

    @contextlib.contextmanager
    def place(self) -> Iterator["Place"]:
        """Hold a place while a request is answered.

        Raises:
            RequestError: all are taken (429), or the server is stopping (503).
        """
        with self._changed:
            if self._closing:
                raise stopping()
            if self.in_hand >= self.places:
                batches = math.ceil(self.in_hand / self.batch_size)
                raise RequestError(
                    f"{self.places} requests are in hand, as many as may be",
                    status=429,
                    kind="queue_full",
                    remedy="Try again later",
                    retry_after=max(1, math.ceil(batches * self._seconds)),
                )
            self.in_hand += 1
            self._preparing += 1
        place = Place(self)
        try:
            yield place
        finally:
            with self._changed:
                self.in_hand -= 1
                self._preparing -= not place.submitted
                self._changed.notify_all()

    def close(self) -> None:
        """Take nothing new; what is in hand is finished."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the models' thread after :meth:`close`.

        It may still be at a step whose client has gone; the process would be aborted if it ended
        in the midst of one.
        """
        if (thread := self._thread) is not None:
            thread.join(seconds)

    def submit(self, task: Task | ReportTask, place: "Place") -> None:
        """Put a task into the queue."""
        with self._changed:
            self._preparing -= not place.submitted
            place.submitted = True
            self._waiting.append(task)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="models", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                batch = self._next_batch()
                if batch is None:
                    self._thread = None
                    return
            begun = time.monotonic()
            if isinstance(batch, Task):
                _settle(batch.future, batch.function)
            elif batch:
                results = self._written(batch)
                self._seconds = time.monotonic() - begun
                self._batch_done(len(batch), self._seconds)
                for task, result in zip(batch, results, strict=True):
                    _settle(task.future, result)

    def _next_batch(self) -> Task | list[ReportTask] | None:
        """What is next, or None where the server is stopping and all is done."""
        while not self._waiting:
            if self._closing and not self.in_hand:
                return None
            self._changed.wait()
        deadline = time.monotonic() + _GATHER
        while True:
            first = self._waiting[0]
            if isinstance(first, Task):
                return self._waiting.popleft()  # type: ignore[return-value]
            batch = [t for t in self._waiting if isinstance(t, ReportTask) and first.joins(t)]
            remaining = deadline - time.monotonic()
            if len(batch) >= self.batch_size or not self._preparing or remaining <= 0:
                break
            self._changed.wait(remaining)
        chosen = batch[: self.batch_size]
        for task in chosen:
            self._waiting.remove(task)
        return [task for task in chosen if not task.future.cancelled()]

    def _written(self, batch: Sequence[ReportTask]) -> "list[Callable[[], Report | Failure]]":
        """For each task what gives its result, or raises what went wrong."""
        requests = iter([replace(task.request, follow=task.goes_on) for task in batch])
        try:
            results = report_studies(
                batch[0].model,
                [task.study for task in batch],
                batch[0].settings,
                batch_size=len(batch),
                read=lambda model, study: next(requests),
            )
            return [functools.partial(_value, result) for result in results]
        except Exception as error:  # such as too little memory of a device
            if len(batch) == 1:
                return [functools.partial(_raise, error)]
            return [one for task in batch for one in self._written([task])]


class Place:
    """A request's place in the queue."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.submitted = False

    async def run(self, function: Callable[[], _Value]) -> _Value:
        """Run a function on the thread that owns the models, between two batches."""
        task = Task(function)
        self._work.submit(task, self)
        return await asyncio.wrap_future(task.future)

    async def report(
        self,
        model: ReportModel,
        study: Study,
        request: StudyRequest,
        settings: GenerationSettings,
        follow: Callable[[Sequence[int]], None] | None = None,
    ) -> Report | Failure:
        """Write a report in a batch; when this is cancelled its row stops.

        Args:
            model: one of the server's.
            study: that is reported on.
            request: what the model is shown of it.
            settings: of the decoding.
            follow: is told all tokens so far after each, on the models' thread.
        """
        task = ReportTask(model, settings, study, request, follow)
        self._work.submit(task, self)
        return await asyncio.wrap_future(task.future)


def stopping() -> RequestError:
    """What new requests are told while the last ones are answered."""
    return RequestError(
        "the server is stopping",
        status=503,
        kind="stopping",
        remedy="Try again later",
        retry_after=10,
    )


def _settle(future: "Future[Any]", function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


def _value(value: _Value) -> _Value:
    return value


def _raise(error: Exception) -> NoReturn:
    raise error
