r"""Speed and memory on one GPU of all that is trained and written, beside its peers, in one table.

    python benchmarks/gpu.py --output gpu_table                  # at most 8 minutes on an H100
    python benchmarks/gpu.py --minutes 4 --rows generation       # less time, some rows
    python benchmarks/gpu.py --tiny --device cpu                 # the same code on tiny shapes

No weights are read: those of every model are random and made on the device, in the shapes of the
published recipes.

- report: one step of LoRA fine-tuning as training/train_report.py takes it, of Vicuna 7B on one
  image of 1,369 patch tokens and 150 to 400 tokens of text a study, which the encoder (ViT-B/14 at
  518 pixels) encodes in the step; by kernels, compiled, with pooled patch tokens, with gradient
  checkpointing. Beside it transformers' LlavaForConditionalGeneration with peft's LoRA in a plain
  loop of the same optimiser and precision.
- generation: 256 tokens after such an image, as reports are written; beside it transformers' own
  generate on the same weights and embeddings.
- pretraining: one step of configs/encoder/rad_dino_vitb14_518.yaml with fewer images; beside it
  lightly's building blocks, put together as its documentation shows.

The share of the peak counts useful operations alone, the same for every row of one work: each
frozen weight 4 a token (forward and the gradient of its input) and each trained one 6, attention
7 T^2 a layer and unit of width for causal attention and 12 T^2 for the encoder's own training, the
vocabulary at the report's tokens only. What is computed twice, on padding or on logits that nobody
reads takes time and counts nothing. The peak is that of the GPU's data sheet in dense bfloat16.
Beside a row of report training stands what `llava-rad plan` says for it.

Rows of one part share a process; one that fails or has no time left is named and the rest goes on.
Rows that torch.compile takes part in come after all others, in processes of their own, which are
ended when their time is up. Each row is written to OUTPUT/rows.jsonl when it is done, all to
OUTPUT/gpu.json, the table to OUTPUT/gpu.md. What is not installed on a machine without a network
can travel as wheels: see benchmarks/gpu_wheels.sh.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

Process = subprocess.Popen[str]

MODULES = {
    "report": "gpu_report",
    "report peer": "gpu_report",
    "generation": "gpu_generation",
    "pretraining": "gpu_pretraining",
    "pretraining peer": "gpu_pretraining",
}
# Part, whether its compiled rows are measured or the others, and their share of the time. What
# takes long or may hang comes last.
TURNS = [
    ("report", False, 0.18),
    ("report peer", False, 0.10),
    ("generation", False, 0.18),
    ("pretraining", False, 0.12),
    ("pretraining peer", False, 0.06),
    ("report", True, 0.18),
    ("generation", True, 0.06),
    ("pretraining", True, 0.06),
    ("pretraining peer", True, 0.06),
]
GRACE = 30  # seconds that a row which is not compiled may take beyond its part's time


def main() -> None:
    """Measure all parts in processes of their own and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_table"))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all rows together")
    parser.add_argument("--rows", default="", help="only rows with this in their part or name")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the program")
    parser.add_argument("--part", choices=MODULES, help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        measure_part(arguments)
        return
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: no GPU is found; remedy: try the program with --tiny --device cpu")
    (arguments.output / "rows.jsonl").write_text("")
    deadline = time.monotonic() + 60 * arguments.minutes
    left = 1.0
    waiting = start_part(*TURNS[0][:2], arguments)
    for number, (part, compiled, share) in enumerate(TURNS):
        process = waiting
        if number + 1 < len(TURNS):  # it imports what it needs while this one measures
            waiting = start_part(*TURNS[number + 1][:2], arguments)
        # What an earlier part has not used goes to those that follow.
        seconds = (deadline - time.monotonic()) * share / left
        left -= share
        finish_part(process, part, seconds, 0 if compiled else GRACE, arguments.output)
    rows = read_rows(arguments.output)
    text = f"{machine(arguments.device)}.\n\n{table(rows)}"
    (arguments.output / "gpu.md").write_text(text + "\n")
    values = {"machine": machine(arguments.device), "rows": rows}
    (arguments.output / "gpu.json").write_text(json.dumps(values, indent=2) + "\n")
    print(text)


def start_part(part: str, compiled: bool, arguments: argparse.Namespace) -> Process:
    """Start the process of a part, which waits for its time before it touches the GPU."""
    command = [
        *(sys.executable, __file__, "--part", part, "--output", str(arguments.output)),
        *("--rows", arguments.rows, "--device", arguments.device),
        *(["--tiny"] if arguments.tiny else []),
        *(["--compiled"] if compiled else []),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)


def finish_part(process: Process, part: str, seconds: float, grace: float, output: Path) -> None:
    """Give a part its seconds; rows that the end of its process takes away are named."""
    try:
        process.communicate(f"{seconds}\n", timeout=max(1.0, seconds + grace))
        problem = f"its process ended with code {process.returncode}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        problem = "it ran out of time"
    if problem:
        waiting = [row for row in read_rows(output) if row["part"] == part and "waits" in row]
        for row in waiting or [{"part": part, "row": ""}]:
            write_row(output, {"part": part, "row": row["row"], "left_out": problem})


def measure_part(arguments: argparse.Namespace) -> None:
    """Measure the rows of a part in this process, one after the other, while there is time."""
    module = importlib.import_module(MODULES[arguments.part])
    seconds = float(sys.stdin.readline())
    started = time.monotonic()
    rows = {
        name: measure
        for name, measure in module.rows(
            arguments.part, tiny=arguments.tiny, device=arguments.device
        ).items()
        if arguments.rows in f"{arguments.part}, {name}"
        and ("compiled" in name) == arguments.compiled
    }
    for name in rows:
        write_row(arguments.output, {"part": arguments.part, "row": name, "waits": True})
    longest = 0.0
    for name, measure in rows.items():
        begun = time.monotonic()
        found: dict[str, Any]
        if begun + 0.8 * longest > started + seconds:
            found = {"left_out": "no time left"}
        else:
            try:
                found = measure()
            except Exception as error:  # a row that fails must not take the others with it
                traceback.print_exc()
                reason = str(error).strip().splitlines() or [type(error).__name__]
                found = {"left_out": reason[0][:160]}
            free_memory()
            longest = max(longest, time.monotonic() - begun)
        found["spent"] = round(time.monotonic() - begun, 1)
        write_row(arguments.output, {"part": arguments.part, "row": name, **found})


def free_memory() -> None:
    """Forget the models of the last row and its peak."""
    import gc

    import torch

    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def write_row(output: Path, row: dict[str, Any]) -> None:
    """Add a row to the file at once, and say it."""
    with (output / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    if "waits" in row:
        return
    print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)


def read_rows(output: Path) -> list[dict[str, Any]]:
    """The rows in their order, each as it was written last."""
    lines = (output / "rows.jsonl").read_text().splitlines()
    found = {(row["part"], row["row"]): row for row in map(json.loads, lines)}
    return list(found.values())


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a row each; what was left out is named below with its reason."""
    lines = [
        "| work | row | batch | rate | share of peak | memory, GB | first step, s "
        "| plan's rate | plan's memory, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "rate" not in row:
            continue
        cells = [
            row["part"],
            row["row"],
            row["batch"],
            f"{row['rate']:.2f} {row['unit']}",
            "" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['peak_gb']:.1f}",
            f"{row['first_seconds']:.1f}",
            f"{row['planned_rate']:.2f}" if "planned_rate" in row else "",
            f"{row['planned_gb']:.1f}" if "planned_gb" in row else "",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    left_out = [row for row in rows if "left_out" in row]
    if left_out:
        lines += ["", "Left out:", ""]
        lines += [f"- {row['part']}, {row['row'] or 'all'}: {row['left_out']}" for row in left_out]
    return "\n".join(lines)


def machine(device: str) -> str:
    """The card and the versions."""
    from importlib.metadata import version

    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    packages = ("torch", "transformers", "peft", "accelerate")
    return ", ".join([name, *(f"{package} {version(package)}" for package in packages)])


if __name__ == "__main__":
    main()
