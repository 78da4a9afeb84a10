"""What happens when things go wrong: one table from real processes.

    python benchmarks/reliability [--short] [--only WORD] [--minutes N]

Programs are killed, signalled, run twice at once, given full and read-only disks, damaged and
hostile files, and DICOM files whose identifiers are marked. A row says how often that was tried
and how often all was well: the right exit code, a line that says why and no traceback, and after
a kill the same result as without (each byte; of trainings the weights, to 1e-6). Processes are
forked from one that has imported everything. The trainings have more tests of this kind in
tests/training. Exit codes: 0 all was well, 1 something was not.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from bad_files import damage, hostile, strangers
from bench import Bench
from disks import disks
from memory import slopes
from private import marks
from processes import Row, warm_up
from stops import kills, signals, twice

# The quick ones first, so that a short time leaves none of them out.
CASES = (hostile, strangers, marks, damage, twice, slopes, disks, signals, kills)


def main() -> int:
    """Try everything; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a few tries of each, in minutes")
    parser.add_argument("--minutes", type=float, help="no try begins later; default: 55, short 10")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    chosen = parser.parse_args()
    rows: list[Row] = []
    warm_up()
    begun = time.monotonic()
    # In memory where there is such a place: what is flushed a thousand times need not wait.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        bench = Bench(Path(place), short=chosen.short)
        bench.until = begun + 60 * (chosen.minutes or (10 if chosen.short else 55))
        print(f"{'what':<22} {'of':<34} {'tried':>5} {'well':>5}  notes", flush=True)
        for case in CASES:
            for row in case(bench) if chosen.only in case.__name__ else ():
                rows.append(row)
                print(
                    f"{row.what:<22} {row.case:<34} {row.tried:>5} {row.held:>5}  "
                    + "; ".join(row.notes),
                    flush=True,
                )
    tried, held = sum(row.tried for row in rows), sum(row.held for row in rows)
    print(f"{held} of {tried} ended as they should")
    left = sum(row.tried == 0 and not row.notes for row in rows)
    if left:
        print(f"{left} rows were not tried: the time was over")
    return 0 if tried == held else 1


if __name__ == "__main__":
    sys.exit(main())
