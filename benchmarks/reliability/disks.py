"""Disks that are full, and that may not be written to."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import Bench
from processes import Row, small_files


def disks(bench: Bench) -> Iterator[Row]:
    """A line that says why and exit code 1, whatever the disk refuses.

    On a small file system in memory; where none can be mounted, files are kept from growing.
    """
    rooms = ("0k", "16k") if bench.short else ("0k", "8k", "64k", "256k")
    for name, program in bench.programs().items():
        row = Row("full disk", name)
        for room in rooms:
            if bench.late:
                break
            folder = bench.new()
            if mount(folder, "size=512k"):
                with mounted(folder):
                    fill(folder, int(room[:-1]) << 10)
                    ended = bench.run(program.work(folder))
            else:
                row.what = "full disk (limit)"
                limit = small_files(1 + (int(room[:-1]) << 10))
                ended = bench.run(program.work(folder), prepare=limit)
            # What is small enough may fit.
            row.count(ended.trouble(1, *([0] if room != "0k" else [])))
        yield row
    for name, program in bench.programs().items():
        row = Row("read-only disk", name)
        folder = bench.new()
        if not bench.late:
            if mount(folder, "size=64k,ro"):
                with mounted(folder):
                    row.count(bench.run(program.work(folder)).trouble(1))
            else:
                row.notes.append("skipped: nothing can be mounted here")
        yield row


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Take the file system away in the end."""
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, room: int) -> None:
    """Leave some bytes of a file system free."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if room:
        with filler.open("r+b") as file:
            file.truncate(max(0, filler.stat().st_size - room))
