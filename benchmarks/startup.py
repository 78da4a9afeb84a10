"""How long ``llava-rad report`` takes on one film, and its peak memory.

    python benchmarks/startup.py FILM --rounds 3

Beside it, in turns, runs the import that every report needs, that of an LLM's class in
transformers. The ratio of the two says what the rest costs: reading the film, loading the weights,
writing the text. One run of each that is not measured comes first, since it may unpack the base
LLM. Prints a Markdown table of medians on stdout. Nothing large is imported here: Linux counts into
the peak of a process what the one that started it held.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

IMPORT = [
    sys.executable,
    "-c",
    "from transformers.models.llama.modeling_llama import LlamaForCausalLM",
]


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes:
        wall: seconds by the clock.
        cpu: seconds of all its threads.
        peak: largest resident memory, in MB.
    """

    wall: float
    cpu: float
    peak: float


def main() -> None:
    """Measure both commands in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("film", type=Path, help="one image file")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report = [sys.executable, "-m", "llava_rad", "report", str(arguments.film)]
    commands = {"import of an LLM": IMPORT, "report": [*report, "--model", arguments.model]}
    for command in commands.values():
        measure(command)
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds} ...", file=sys.stderr)
        for name, command in commands.items():
            runs[name].append(measure(command))
    print(table(runs))


def measure(command: list[str]) -> Run:
    """Run a command to its end; exits where it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}")
    # in KiB on Linux, in bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6)


def table(runs: dict[str, list[Run]]) -> str:
    """A line a command, with medians and how often the first command's they are."""
    lines = [
        "| command | seconds | against the first | processor seconds | against the first "
        "| peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    first: Run | None = None
    for name, own in runs.items():
        run = Run(
            *(statistics.median(getattr(r, key) for r in own) for key in ("wall", "cpu", "peak"))
        )
        first = first or run
        lines.append(
            f"| {name} | {run.wall:.1f} | {run.wall / first.wall:.2f} x | {run.cpu:.1f} | "
            f"{run.cpu / first.cpu:.2f} x | {run.peak:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
