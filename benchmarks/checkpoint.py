"""Memory and time of a training checkpoint: weights and AdamW's state of a model in float32.

    python benchmarks/checkpoint.py [--parameters 300000000] [--folder DISK]

A model of random weights with its optimiser's state is made and saved once, then once more in the
background. Printed: bytes saved, what the host's memory grew by above the model at its peak,
seconds until training could go on, and processor seconds. Times depend on the disk.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_rad.processes import process_state
from llava_rad.runs import CheckpointWriter
from llava_rad.runs.state import optimiser_tensors

_WIDTH = 2048


def memory(kind: str) -> int:
    """Bytes of this process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{kind}:\s+(\d+) kB", text)
    assert found
    return int(found[1]) * 1024


def main() -> int:
    """Save twice; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=300_000_000)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    chosen = parser.parse_args()
    layers = max(1, chosen.parameters // _WIDTH**2)
    model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)))
    optimiser = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        optimiser.state[parameter] = {
            "step": torch.ones(()),
            "exp_avg": torch.rand_like(parameter),
            "exp_avg_sq": torch.rand_like(parameter),
        }
    groups: dict[str, dict[str, Any]] = {
        "weights": dict(model.named_parameters()),
        "optimiser": optimiser_tensors(model.named_parameters(), optimiser),
    }
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    print(f"{'checkpoint':<16} {'GB saved':>9} {'GB above':>9} {'s waited':>9} {'CPU s':>7}")
    for background in (False, True):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as place:
            folder = Path(place) / "checkpoints"
            writer = CheckpointWriter(folder, process_state(), keep=1, background=background)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, begun, spent = memory("VmRSS"), time.perf_counter(), time.process_time()
            with writer:
                writer.save("bench", 1, groups, {})
                waited = time.perf_counter() - begun
            spent = time.process_time() - spent
            saved = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            print(
                f"{'in background' if background else 'waited for':<16} {saved / 1e9:>9.2f} "
                f"{(memory('VmHWM') - before) / 1e9:>9.2f} {waited:>9.1f} {spent:>7.1f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
