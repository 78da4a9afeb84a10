"""Reports on disk: JSON lines, complete after each line; an interrupted run resumes."""

import hashlib
import json
import os
from pathlib import Path

from llava_rad.errors import DataError
from llava_rad.model import ReportModel
from llava_rad.readers import parse_json
from llava_rad.reports.generate import GenerationSettings, Report


class ReportFile:
    """JSON lines on disk, one a study, complete after each line; an earlier run is gone on with.

    Args:
        path: to write.
        run: what the reports depend on beside their study (model, settings); lines written with
            something else are not mixed in.

    Raises:
        DataError: the file was written by another run, or is not one of ours.
    """

    def __init__(self, path: str | Path, run: str) -> None:
        self.path = Path(path)
        self.run = run
        self.done: set[str] = set()
        #: Those of them whose report has no text.
        self.empty: set[str] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read_done()
            self._handle = self.path.open("ab")
            self._handle.truncate(kept)
        except OSError as error:
            raise DataError(
                f"cannot write ({error.strerror})",
                where=self.path,
                remedy="Choose another --output",
            ) from error

    def _read_done(self) -> int:
        if not self.path.exists():
            return 0
        content = self.path.read_bytes()
        # What follows the last line break was cut off in the middle of writing.
        kept = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:kept].splitlines(), 1):
            try:
                values = parse_json(line, where=self.path)
                study_id, run = values["study_id"], values["run"]
            except (DataError, KeyError, TypeError) as error:
                raise DataError(
                    "not a line of reports",
                    where=f"{self.path}:{number}",
                    remedy="Choose another --output",
                    kind="foreign_output",
                ) from error
            if run != self.run:
                raise DataError(
                    "holds reports of another model or other settings",
                    where=self.path,
                    remedy="Choose another --output, or delete it to start again",
                    kind="other_run",
                )
            self.done.add(study_id)
            if not values.get("findings"):
                self.empty.add(study_id)
        return kept

    def write(self, report: Report) -> None:
        """Append one report and hand it to the operating system."""
        line = json.dumps({**report.to_dict(), "run": self.run}, ensure_ascii=False)
        self._handle.write(line.encode() + b"\n")
        self._handle.flush()

    def close(self) -> None:
        """Finish the file."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()

    def __enter__(self) -> "ReportFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_id(
    model: ReportModel,
    settings: GenerationSettings,
    *,
    precision: str,
    frame: int | None = None,
) -> str:
    """Short hash of what a report depends on beside its study."""
    values: dict[str, object] = {
        "model": model.folder_hash,
        "settings": settings.to_dict(),
        "precision": precision,
    }
    if frame is not None:
        values["frame"] = frame
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
