"""Reports on disk, complete after each one; an interrupted run resumes, and shards are merged.

JSON lines carry beside the report ``run`` (a short hash of what all reports of a run share),
``made_with`` (the same in words) and ``shown`` (what the study showed). In text the same stands in
a line below each report that begins with ``--``. A shard ends in one more line of that kind, which
says that it is whole.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from llava_rad.data import Study
from llava_rad.errors import ConfigError, DataError
from llava_rad.files import write_atomically
from llava_rad.locks import FileLock
from llava_rad.model import ReportModel
from llava_rad.outputs import cannot_write, is_special, make_parent
from llava_rad.reports.generate import GenerationSettings
from llava_rad.reports.model_facts import ModelFacts
from llava_rad.reports.report import Report
from llava_rad.reports.shown import changes, shown_of
from llava_rad.wording import counted, verb

_TRAILER = b"-- "
_BEGIN_JSON = (b'{"findings": ', b'{"shard": ')
_BEGIN_TEXT = (b"== ", _TRAILER)
_NAMED = 3


@dataclass(frozen=True)
class Shard:
    """One part of many, ``I/N`` on the command line.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``I/N``. Raises ConfigError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(
                f"{text!r} is no shard", where="--shard", remedy="Write I/N, such as 2/4"
            )
        return cls(int(match[1]), int(match[2]))

    def file(self, output: Path) -> Path:
        """The shard's own file beside the output."""
        return output.with_name(f"{output.name}.{self.number}-of-{self.of}")

    def share(self, studies: Sequence[Study]) -> list[Study]:
        """Its studies: the shards one after the other are all of them in order."""
        first = (self.number - 1) * len(studies) // self.of
        return list(studies[first : self.number * len(studies) // self.of])

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class ReportFile:
    """Reports on disk, one after the other; what an earlier run wrote is gone on with.

    Another run that writes the same file is kept out, from here until :meth:`close`.

    Args:
        path: to write. A device or pipe is written to as it is.
        run: what the reports depend on beside their study (model, settings); reports written with
            something else are not mixed in.
        made_with: the same by name, for the message where it differs.
        studies: that are to be reported on; those that are in the file already must still show
            the same.
        as_text: writes a report for people; None writes JSON lines.
        overwrite: begin anew, whatever is there.

    Attributes:
        done: ids of the studies whose reports are in the file.
        empty: those of them whose report has no text.

    Raises:
        DataError: the file was written by another run, holds a report of a study that has changed,
            is not one of ours, belongs to a run that goes on, or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        run: str,
        *,
        made_with: Mapping[str, Any] | None = None,
        studies: Sequence[Study] = (),
        as_text: Callable[[Report], str] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.run = run
        self.made_with = dict(made_with or {})
        self.done: set[str] = set()
        self.empty: set[str] = set()
        self._as_text = as_text
        self._special = is_special(self.path)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            if not self._special:
                make_parent(self.path)
                real = Path(os.path.realpath(self.path))
                lock = FileLock(real.with_name(f".{real.name}.lock"), "report run")
                stack.enter_context(lock)
            try:
                kept = 0 if overwrite or self._special else self._read_done(studies)
                self._handle = stack.enter_context(self.path.open("ab", buffering=0))
                if not self._special:
                    self._handle.truncate(kept)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._stack = stack.pop_all()

    def _read_done(self, studies: Sequence[Study]) -> int:
        if not self.path.exists():
            return 0
        now = {study.study_id: study for study in studies}
        kept, changed = 0, []
        for entry in read_entries(self.path):
            if entry.about.get("shard") is not None:
                break  # it said that the shard was whole; this run says so again
            kept = entry.end
            if entry.about.get("run") != self.run:
                raise DataError(
                    f"holds reports of {self._other(entry.about.get('made_with'))}",
                    where=self.path,
                    remedy="Choose another --output, or begin anew with --overwrite",
                    kind="other_run",
                )
            study_id = entry.about["study_id"]
            self.done.add(study_id)
            if entry.is_empty:
                self.empty.add(study_id)
            shown = entry.about.get("shown")
            if study_id in now and isinstance(shown, dict):
                differs = changes(shown, now[study_id])
                if differs:
                    changed.append(f"study {study_id}: {'; '.join(differs)}")
        if changed:
            more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
            raise DataError(
                "studies have changed since their reports were written: "
                + "; ".join(changed[:_NAMED])
                + more,
                where=self.path,
                remedy="Choose another --output, or begin anew with --overwrite",
                kind="other_study",
            )
        return kept

    def _other(self, before: Any) -> str:
        if not isinstance(before, dict):
            return "another model or other settings"
        names = sorted(before.keys() | self.made_with.keys())
        differing = [
            f"{name}: {before.get(name, 'default')} in the file, "
            f"{self.made_with.get(name, 'default')} now"
            for name in names
            if before.get(name) != self.made_with.get(name)
        ]
        return "another model or other settings" + (f" ({'; '.join(differing)})" * bool(differing))

    def write(self, report: Report, shown: Mapping[str, Any] | None = None) -> None:
        """Append one report and hand it to the operating system.

        Args:
            report: of one study.
            shown: of the study, taken before its pictures were read.

        Raises:
            DataError: the disk is full, or the file was deleted or replaced meanwhile.
        """
        about: dict[str, Any] = {"run": self.run}
        if self.made_with:
            about["made_with"] = self.made_with
        if shown is not None:
            about["shown"] = shown
        if self._as_text is None:
            content = _line({**report.to_dict(), **about})
        else:
            about = {"study_id": report.study_id, "empty": not report.findings, **about}
            content = f"{self._as_text(report).rstrip()}\n".encode() + _TRAILER + _line(about)
        self._append(content)

    def finish_shard(self, shard: Shard, studies: Sequence[Study], failed: Sequence[str]) -> None:
        """Say that a shard is whole.

        Args:
            shard: this one.
            studies: of all shards together.
            failed: ids of its studies that have no report.
        """
        about = {
            "shard": [shard.number, shard.of],
            "run": self.run,
            "studies": len(shard.share(studies)),
            "failed": list(failed),
            "inputs": inputs_id(studies),
        }
        self._append((b"" if self._as_text is None else _TRAILER) + _line(about))

    def _append(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[self._handle.write(view) or 0 :]
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self._special:  # no half report on a full disk
                with contextlib.suppress(OSError):
                    self._handle.truncate(
                        os.fstat(self._handle.fileno()).st_size - (len(content) - len(view))
                    )
            raise cannot_write(self.path, error) from error
        self._require_there()

    def _require_there(self) -> None:
        if self._special:
            return
        own = os.fstat(self._handle.fileno())
        with contextlib.suppress(OSError):
            there = self.path.stat()
            if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                return
        raise DataError(
            "the file was deleted or replaced while reports were written to it; those that it "
            "held are lost",
            where=self.path,
            remedy="Leave it in its place, and run the command again",
            kind="output_gone",
        )

    def close(self) -> None:
        """Finish the file and give it free.

        Raises:
            DataError: it is no longer there, or the disk refuses it.
        """
        if self._handle.closed:
            return
        with self._stack:
            try:
                if not self._special:
                    os.fsync(self._handle.fileno())
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self._require_there()

    def __enter__(self) -> "ReportFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._stack.close()  # what went wrong first is what is told


@dataclass(frozen=True)
class Entry:
    """One report of a file, or the last line of a shard.

    Attributes:
        about: ``study_id``, ``run``, ``made_with``, ``shown``; in JSON lines the report too.
        content: its bytes.
        end: offset in the file behind it.
    """

    about: dict[str, Any]
    content: bytes
    end: int

    @property
    def is_empty(self) -> bool:
        """Whether the report has no text."""
        return bool(self.about.get("empty", not self.about.get("findings", "")))


def read_entries(path: Path) -> Iterator[Entry]:
    """Read a file of reports, JSON lines or text; what was cut off at its end is left out.

    Raises:
        DataError: it is neither (kind ``foreign_output``).
        OSError: it cannot be read.
    """
    number, end, count = 0, 0, 0
    text: bool | None = None
    block = b""  # since the last whole report
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = not line.startswith(b"{") if text is None else text
            block += line
            end += len(line)
            if not line.endswith(b"\n") or (text and not _is_trailer(line)):
                continue
            about = _about(line.removeprefix(_TRAILER) if text else line)
            if about is None:
                raise _foreign(path, number)
            yield Entry(about, block, end)
            block = b""
            count += 1
    # What follows the last whole report must be the beginning of one. In text a first report that
    # was cut off cannot be told from a stranger's file.
    beginnings = _BEGIN_TEXT if text else _BEGIN_JSON
    begun = any(block.startswith(b[: len(block)]) for b in beginnings)
    if block and (not begun or (text and not count)):
        raise _foreign(path, number)


def is_report_file(path: Path) -> bool:
    """Whether a file holds reports of this project; DataError names the line that is none."""
    return all(True for _ in read_entries(path))


def _is_trailer(line: bytes) -> bool:
    return line.startswith(_TRAILER + b"{") and _about(line[len(_TRAILER) :]) is not None


def _about(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or "run" not in values:
        return None
    return values if "study_id" in values or "shard" in values else None


def _foreign(path: Path, number: int) -> DataError:
    return DataError(
        "not a file of reports",
        where=f"{path}:{number}",
        remedy="Choose another --output, or replace it with --overwrite",
        kind="foreign_output",
    )


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


@dataclass(frozen=True)
class Merged:
    """What a merge of shards has written.

    Attributes:
        reports: how many.
        shards: how many.
        failed: ids of the studies that have no report in any.
    """

    reports: int
    shards: int
    failed: tuple[str, ...]


def merge_shards(output: str | Path) -> Merged:
    """Write the reports of all shards of an output into it, in order.

    Args:
        output: as it was given to the runs; its shards ``OUTPUT.I-of-N`` lie beside it, and stay.

    Raises:
        DataError: a shard is missing, has not been finished, or is of another run, other inputs or
            another number of shards (the message names it); or the output cannot be written.
    """
    output = Path(output)
    name = re.compile(re.escape(output.name) + r"\.(\d+)-of-(\d+)")
    found = {
        Shard(int(match[1]), int(match[2])): path
        for path in (output.parent.iterdir() if output.parent.is_dir() else ())
        if (match := name.fullmatch(path.name))
    }
    if not found:
        raise _no_merge(output, "it has no shards", f"Write them with --shard I/N -o {output}")
    counts = sorted({shard.of for shard in found})
    if len(counts) > 1:
        kinds = " and ".join(f"{sum(s.of == count for s in found)} of {count}" for count in counts)
        raise _no_merge(
            output, f"there are shards of different runs ({kinds})", "Delete those not meant"
        )
    shards = [Shard(number + 1, counts[0]) for number in range(counts[0])]
    missing = [shard.file(output).name for shard in shards if shard not in found]
    if missing:
        raise _no_merge(
            output,
            f"{len(missing)} of {counted(counts[0], 'shard')} {verb(len(missing))} missing: "
            + ", ".join(missing[:_NAMED])
            + " ..." * (len(missing) > _NAMED),
            "Write them with --shard",
        )
    closing: list[dict[str, Any]] = []
    failed: list[str] = []
    seen: dict[str, Path] = {}
    try:
        with write_atomically(output) as temporary, temporary.open("wb") as file:
            for shard in shards:
                last = _copy_shard(shard, found[shard], file, seen)
                closing.append(last)
                failed += last["failed"]
                for key, what in (("run", "model or settings"), ("inputs", "inputs")):
                    if last.get(key) != closing[0].get(key):
                        raise _no_merge(
                            found[shard],
                            f"its {what} are not those of {found[shards[0]].name}",
                            "Write all shards with the same command",
                        )
    except OSError as error:
        raise cannot_write(output, error) from error
    return Merged(len(seen), len(shards), tuple(failed))


def _copy_shard(shard: Shard, path: Path, file: Any, seen: dict[str, Path]) -> dict[str, Any]:
    """Copy a shard's reports; gives its last line."""
    last: dict[str, Any] | None = None
    count = 0
    run = None
    for entry in read_entries(path):
        if entry.about.get("shard") is not None:
            last = entry.about
            continue
        if last is not None:
            last = None  # reports behind the last line: it was begun again
            break
        study_id = entry.about["study_id"]
        if study_id in seen:
            raise _no_merge(
                path, f"study {study_id} is in {seen[study_id].name} too", "Write it again"
            )
        if run not in (None, entry.about["run"]):
            raise _no_merge(path, "it holds reports of different runs", "Write it again")
        run = entry.about["run"]
        seen[study_id] = path
        count += 1
        file.write(entry.content)
    whole = (
        last is not None
        and last["shard"] == [shard.number, shard.of]
        and count + len(last["failed"]) == last["studies"]
        and run in (None, last["run"])
    )
    if not whole or last is None:
        raise _no_merge(
            path,
            f"the shard has not been finished ({counted(count, 'report')})",
            f"Run its command again, with --shard {shard}",
        )
    return last


def _no_merge(where: Path, what: str, remedy: str) -> DataError:
    return DataError(what, where=where, remedy=remedy, kind="no_merge")


def inputs_id(studies: Sequence[Study]) -> str:
    """Short hash of the studies' ids in order."""
    digest = hashlib.sha256()
    for study in studies:
        digest.update(json.dumps(study.study_id).encode() + b"\n")
    return digest.hexdigest()[:12]


class Remembering:
    """A study reader that keeps what each study showed just before it was read.

    Args:
        read: reads a study.
    """

    def __init__(self, read: Callable[..., Any]) -> None:
        self._read = read
        self._shown: dict[str, dict[str, Any]] = {}

    def __call__(self, model: ReportModel, study: Study) -> Any:
        """Read a study."""
        self._shown[study.study_id] = shown_of(study)
        return self._read(model, study)

    def take(self, study_id: str | None) -> dict[str, Any] | None:
        """What a study showed; it is forgotten then."""
        return self._shown.pop(study_id or "", None)


def run_facts(
    model: ReportModel | ModelFacts,
    settings: GenerationSettings,
    *,
    precision: str,
    frame: int | None = None,
) -> dict[str, Any]:
    """What a report depends on beside its study, by name; settings only where not the default."""
    default = GenerationSettings().to_dict()
    chosen = {name: v for name, v in settings.to_dict().items() if v != default[name]}
    facts = {
        "model": f"{ModelFacts.of(model).name} {(model.folder_hash or '')[:12]}".strip(),
        "precision": precision,
    }
    return {**facts, **chosen, **({} if frame is None else {"frame": frame})}


def run_id(
    model: ReportModel | ModelFacts,
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
