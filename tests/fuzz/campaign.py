"""Runs of many inputs, their table, and the inputs that are kept to be run again."""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from fuzz.inputs import Kind, write_input
from fuzz.isolation import Outcome, Worker, in_a_fork

#: Beside a kept input: what it is and what came of it.
NOTE = "fuzz.json"
_KEPT = 3  # inputs of one and the same fault


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    inputs: int = 0
    loaded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    highest: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.inputs += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.highest = max(self.highest, outcome.mebibytes)
        if outcome.fault:
            self.faults[outcome.signature] += 1
        elif outcome.status == "loaded":
            self.loaded += 1
        else:
            self.refused[outcome.detail] += 1


def try_kind(
    kind: Kind,
    *,
    seed: int,
    inputs: int | None,
    seconds: float,
    keep: Path,
    say: Callable[[str], None],
) -> Tally:
    """Try inputs of one kind: each seed as it is, then damaged ones.

    Args:
        kind: to try.
        seed: the same one makes the same inputs.
        inputs: how many damaged inputs; None for as many as ``seconds`` allow.
        seconds: of the wall clock, where no number is given.
        keep: folder for the inputs that show a fault.
        say: told of each kept input.
    """
    kind.ready()
    seeds = in_a_fork(kind.seeds)
    tally = Tally()
    names = sorted(seeds)
    with _workplace() as place, _worker(kind) as worker:
        for name in names if kind.whole else ():
            folder = place / f"seed-{name.replace('/', '-')}"
            write_input(seeds[name], folder)
            outcome = worker.run(folder, "")
            shutil.rmtree(folder)
            if outcome.status != "loaded":
                say(f"{kind.name}: the whole input {name}: {outcome.signature}\n{outcome.text}")
                tally.faults[f"whole input: {outcome.signature}"] += 1
        end = time.monotonic() + seconds
        number = 0
        while number < inputs if inputs is not None else time.monotonic() < end:
            label = f"{seed}/{kind.name}/{number}"
            number += 1
            rng = Random(label)
            folder = place / f"{number}"
            write_input(kind.mutate(seeds[rng.choice(names)], rng), folder)
            # A reader may write into the folder: the input is kept as it was.
            kept = keep / label.replace("/", "-")
            outcome = worker.run(folder, label)
            tally.add(outcome)
            if outcome.fault and tally.faults[outcome.signature] <= _KEPT:
                rng = Random(label)
                _keep(kind.mutate(seeds[rng.choice(names)], rng), kept, kind, label, outcome)
                say(f"{kept}: {outcome.signature}")
            shutil.rmtree(folder, ignore_errors=True)
    return tally


def replay(place: Path, kinds: dict[str, Kind]) -> Outcome:
    """Read a kept input again.

    Args:
        place: its folder, or the note in it.
        kinds: by name.
    """
    folder = place if place.is_dir() else place.parent
    note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    kind = kinds[note["kind"]]
    kind.ready()
    with _workplace() as workplace, _worker(kind) as worker:
        copy = workplace / "input"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(NOTE))
        return worker.run(copy, note["seed"])


def table(tallies: dict[str, Tally]) -> str:
    """The tallies as a table, a row a kind."""
    rows = [
        ("kind", "inputs", "loaded", "refused", "faults", "slowest s", "highest MiB", "by kind")
    ]
    for name, tally in tallies.items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in tally.refused.most_common())
        rows.append(
            (
                *(name, str(tally.inputs), str(tally.loaded), str(tally.refused.total())),
                *(str(tally.faults.total()), f"{tally.slowest:.1f}", f"{tally.highest:.0f}", kinds),
            )
        )
    total = list(tallies.values())
    rows.append(
        (
            *("all", str(sum(t.inputs for t in total)), str(sum(t.loaded for t in total))),
            *(
                str(sum(t.refused.total() for t in total)),
                str(sum(t.faults.total() for t in total)),
            ),
            f"{max((t.slowest for t in total), default=0):.1f}",
            *(f"{max((t.highest for t in total), default=0):.0f}", ""),
        )
    )
    widths = [max(len(row[n]) for row in rows) for n in range(7)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in range(1, 7)), row[7]]
        ).rstrip()
        for row in rows
    )


def _keep(files: dict, folder: Path, kind: Kind, label: str, outcome: Outcome) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_input(files, folder)
    note = {"kind": kind.name, "seed": label, **asdict(outcome)}
    text = json.dumps(note, indent=1, ensure_ascii=True)
    (folder / NOTE).write_text(text + "\n", encoding="utf-8")


@contextmanager
def _workplace() -> Iterator[Path]:
    # In memory where there is such a place: thousands of small files.
    memory = Path("/dev/shm")
    root = str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=root) as name:
        yield Path(name)


@contextmanager
def _worker(kind: Kind) -> Iterator[Worker]:
    worker = Worker(kind.read)
    try:
        yield worker
    finally:
        worker.close()
