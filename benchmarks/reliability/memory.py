"""Memory that more of the same takes."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import MINI, Bench
from processes import Row


def slopes(bench: Bench) -> Iterator[Row]:
    """Peak memory with few and with many; more may cost what the texts cost, no more."""
    folder = bench.new()
    few, many = (10, 40) if bench.short else (20, 220)
    for i in range(many):
        shutil.copy(bench.images[0], folder / f"image{i:03}.png")
    files = sorted(folder.iterdir())
    model = bench.model()
    # Name: the command of a number, the two numbers, MB that a hundred more may take.
    cases: dict[str, tuple[Callable[[int, Path], list[Any]], tuple[int, int], float]] = {
        "report": (
            lambda n, to: [
                *("report", *files[:n], "--model", model, "-o", to / "o.jsonl"),
                *("--max-new-tokens", 2),
            ],
            (few, many),
            40,
        ),
        "encode": (
            lambda n, to: [
                *("encode", *files[:n], "-o", to / "o.safetensors", "--encoder", MINI / "encoder"),
                *("--batch-size", 1),
            ],
            (few, many),
            40,
        ),
        "score": (
            lambda n, to: [
                *("score", pairs(n, to), "-o", to / "out", "--resamples", 20),
                *("--metrics", "bleu_coco,rouge,cider", "--primary", "rouge/rougeL"),
            ],
            (200, 1200) if bench.short else (500, 5500),
            10,
        ),
        "train report, steps": (
            lambda n, to: [
                *("train", "report", bench.training, f"output={to / 'out'}"),
                f"align={{epochs: {n}, lr: 3.0e-3, batch_size: 2, micro_batch: 1}}",
            ],
            (4, 14) if bench.short else (10, 110),
            120,
        ),
    }
    for name, (command, counts, most) in cases.items():
        row = Row("memory", name)
        if not bench.late:
            ended = [bench.run(command(count, bench.new())) for count in counts]
            slope = 100 * (ended[1].peak - ended[0].peak) / (counts[1] - counts[0])
            trouble = ended[0].trouble(0, lines=False) or ended[1].trouble(0, lines=False)
            row.count(trouble or ("" if slope < most else "memory grows"))
            row.notes.append(f"{slope:+.1f} MB per 100 ({counts[0]} and {counts[1]})")
        yield row


def pairs(count: int, folder: Path) -> Path:
    """A file of predictions."""
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for i in range(count):
            texts = {
                "prediction": f"The lungs are clear. Nodule of {i} mm.",
                "reference": f"No effusion. Nodule of {i + 1} mm at the left base.",
            }
            file.write(json.dumps({"id": f"s{i}", "patient_id": f"p{i}", **texts}) + "\n")
    return path
