"""What a run leaves behind about itself: metrics, one JSON object a line, and its trackers."""

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llava_rad.files import write_text
from llava_rad.runs.together import on_main

_LOG = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"

Row = dict[str, Any]


class RunLog:
    """Metrics of a stage of a run; rows after the step that is resumed are dropped.

    The main process writes; every process has to make one and call :meth:`write`.

    Args:
        folder: of the run.
        stage: that is trained.
        step: that the stage is resumed at.
        stages: of the run in their order; rows of later ones are dropped too.
        accelerator: whose trackers get each row too.

    Raises:
        LlavaRadError: the disk refuses, in all processes.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        step: int,
        stages: Sequence[str],
        accelerator: Accelerator,
    ) -> None:
        self.path = folder / METRICS_FILE
        self.stage = stage
        self._accelerator = accelerator
        self._tracks = True
        self._written: set[tuple[int, tuple[str, ...]]] = set()
        on_main(accelerator, lambda: self._begin(step, stages))

    def _begin(self, step: int, stages: Sequence[str]) -> None:
        current = stages.index(self.stage)
        kept = []
        for row in read_metrics(self.path.parent):
            place = stages.index(row["stage"])
            if place < current or (place == current and 0 < step >= row["step"]):
                kept.append(row)
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        # Only those of the step that is resumed can come again.
        here = (self.stage, step)
        self._written = {_kind(row) for row in kept if (row["stage"], row["step"]) == here}

    def write(self, step: int, **values: float) -> None:
        """Add a row, unless a resumed run repeats one that it kept.

        Raises:
            LlavaRadError: the disk refuses, in all processes.
        """
        on_main(self._accelerator, lambda: self._write(step, values))

    def _write(self, step: int, values: dict[str, float]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"stage": self.stage, "step": step, "time": now, **values}
        if _kind(row) in self._written:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._tracks:
            named = {f"{self.stage}/{name}": value for name, value in values.items()}
            try:
                self._accelerator.log(named, step)
            except OSError as error:
                _LOG.warning("the trackers get no more figures (%s)", error)
                self._tracks = False


def read_metrics(folder: Path) -> list[Row]:
    """The rows of a run; a last line that was cut off by a kill is left out."""
    path = folder / METRICS_FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _kind(row: Row) -> tuple[int, tuple[str, ...]]:
    return row["step"], tuple(sorted(row.keys() - {"time"}))
