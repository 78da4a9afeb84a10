"""Kills, signals, and two runs at once."""

import shutil
import signal
import time
from collections.abc import Iterator

from bench import Bench, difference
from processes import Row


def kills(bench: Bench) -> Iterator[Row]:
    """SIGKILL at moments spread over the whole run; the same command ends with the same result."""
    tries = 1 if bench.short else 12
    for name, program in bench.programs().items():
        row = Row("SIGKILL, then again", name)
        expected = bench.new()
        begun = time.monotonic()
        if bench.late or (trouble := bench.run(program.work(expected)).trouble(0, lines=False)):
            if not bench.late:
                row.count(trouble)
            yield row
            continue
        seconds = time.monotonic() - begun
        for number in range(tries):
            if bench.late:
                break
            folder = bench.new()
            process = bench.start(program.work(folder))
            time.sleep(seconds * (number + bench.random.random()) / tries)
            process.send(signal.SIGKILL)
            process.wait()
            there = program.refuses and not difference(folder, expected)
            again = bench.run(program.work(folder))
            row.count(again.trouble(2 if there else 0, lines=False) or difference(folder, expected))
            shutil.rmtree(folder)
        yield row


def signals(bench: Bench) -> Iterator[Row]:
    """SIGINT and SIGTERM: 130 or 143 and no traceback, or done before; a resume ends well."""
    moments = (0.5,) if bench.short else (0.1, 0.3, 0.5, 0.7, 0.9)
    seconds: dict[str, float] = {}
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for name, program in bench.programs().items():
            row = Row(number.name, name)
            for moment in moments:
                if bench.late:
                    break
                if name not in seconds:
                    begun = time.monotonic()
                    bench.run(program.work(bench.new()))
                    seconds[name] = time.monotonic() - begun
                folder = bench.new()
                process = bench.start(program.work(folder))
                time.sleep(seconds[name] * moment)
                process.send(number)
                ended = process.wait()
                trouble = ended.trouble(code, 0, lines=False)
                if not trouble and name.startswith("train") and ended.code == code:
                    trouble = (
                        "" if "the same command " in ended.err else "does not say how to go on"
                    )
                if not trouble and program.resumes:
                    trouble = bench.run(program.work(folder)).trouble(0, lines=False)
                row.count(trouble)
            yield row


def twice(bench: Bench) -> Iterator[Row]:
    """A second run beside the first is refused with its process; the first ends as ever."""
    for name, program in bench.programs().items():
        if not program.locks:
            continue
        row = Row("two at once", name)
        for _ in range(1 if bench.short else 5):
            if bench.late:
                break
            folder = bench.new()
            first = bench.start(program.work(folder))
            lock, end = None, time.monotonic() + 120
            while lock is None and time.monotonic() < end:
                locks = (path for path in folder.rglob(".*lock") if path.exists())
                lock = next((path for path in locks if path.stat().st_size), None)
                time.sleep(0.002)
            first.send(signal.SIGSTOP)
            second = bench.run(program.work(folder))
            first.send(signal.SIGCONT)
            row.count(
                ("" if lock else "no lock was seen")
                or second.trouble(1, said=f"process {first.pid} on ")
                or first.wait().trouble(0, lines=False)
            )
        yield row
