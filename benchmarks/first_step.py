"""Seconds from the start of a report training to its first step, with many studies.

    python benchmarks/first_step.py [--studies 100000] [--program FILE]

Makes a synthetic manifest and as many image files (small, hard links to a few), starts
``training/train_report.py`` with the bundled encoder and its LLM, and stops it when the first step
is in its log. No features are stored, so what is timed is reading the manifest, tokenising, asking
for each image and loading the model; files of real size are not read whole before a step, and so
count no more. ``--program`` is the program of another version of this project. Prints a Markdown
row: seconds by the clock, and the largest resident memory of a process.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scale import write_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
_NAMES_A_FILE = 20_000  # file systems allow some 65,000


def write_studies(folder: Path, studies: int) -> None:
    """A manifest with two studies to validate on, which comes before the first step."""
    write_manifest(folder, studies)
    file = folder / "many.jsonl"
    first, *rest = file.read_text().split('"split": "validation"')
    start, rest = '"split": "validation"'.join([first, *rest[:2]]), rest[2:]
    file.write_text('"split": "train"'.join([start, *rest]))


def write_images(folder: Path, studies: int) -> None:
    """The images of :func:`scale.write_manifest`."""
    rng = np.random.default_rng(0)
    for i in range(studies):
        place = folder / f"images/{i % 1000:03}/{i}.png"
        if i < 1000:
            place.parent.mkdir(parents=True, exist_ok=True)
        if i % _NAMES_A_FILE == 0:
            first = place
            Image.fromarray(rng.integers(0, 256, (56, 56), dtype=np.uint8)).save(first)
        else:
            os.link(first, place)


def first_step(program: Path, folder: Path) -> tuple[float, float]:
    """Run a program until its first step: seconds, MB of one process."""
    output = folder / "run"
    config = {
        "output": str(output),
        "encoder": str(program.parents[1] / "llava_rad/mini/encoder"),
        "stage": "align",
        "data": {"sources": [str(folder / "many.jsonl")], "cache_features": False, "workers": 2},
        "align": {"epochs": 1, "batch_size": 2, "micro_batch": 2},
        "log_steps": 1,
        "precision": "fp32",
        "trackers": [],
    }
    (folder / "first_step.yaml").write_text(json.dumps(config))
    command = [sys.executable, str(program), str(folder / "first_step.yaml")]
    environment = os.environ | {"PYTHONPATH": str(program.parents[1]), "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    metrics = output / "metrics.jsonl"
    while not (metrics.is_file() and b'"loss"' in metrics.read_bytes()):
        if process.poll() is not None:
            sys.exit(f"error: the training ended with {process.returncode} before its first step")
        time.sleep(0.05)
    wall = time.perf_counter() - begun
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measure one program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--program", type=Path, default=REPOSITORY / "training/train_report.py")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_studies(folder, chosen.studies)
        write_images(folder, chosen.studies)
        wall, peak = first_step(chosen.program.resolve(), folder)
    print("| studies | seconds | peak memory, MB |")
    print("|---|---|---|")
    print(f"| {chosen.studies:,} | {wall:.1f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
