"""Try the readers on thousands of damaged files, none of which may end in more than an error.

    python tests/fuzz/run.py --minutes 10 [--seed 3] [--only dicom --only yaml]
    python tests/fuzz/run.py --inputs 200
    python tests/fuzz/run.py --replay FOLDER

Each kind of input (DICOM, pictures, manifests, tables, configurations, predictions, folders of
models) is damaged byte by byte and along its own structure, and read through the public reader in
a process of its own. What may come out is a result or an error of this project, one printable
line, within 10 s of processor time and 2 GiB of memory. Anything else is a fault: its input is
kept in a folder, from which --replay runs it again.

The table goes to standard output, what is found to standard error. Exit codes: 0 no fault, 1 a
fault, 2 wrong usage.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# Read when the libraries are imported: no network, and one thread, so that processes can fork.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, and return the exit code."""
    from fuzz.campaign import Tally, replay, table, try_kind
    from fuzz.kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="shared among the kinds")
    parser.add_argument("--inputs", type=int, help="this many of each kind, instead of minutes")
    parser.add_argument("--seed", type=int, help="the same seed makes the same inputs")
    parser.add_argument("--only", action="append", choices=sorted(KINDS), metavar="KIND")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that show a fault")
    parser.add_argument("--replay", type=Path, help="read one kept input again", metavar="FOLDER")
    options = parser.parse_args(arguments)

    if options.replay:
        outcome = replay(options.replay, KINDS)
        print(f"{outcome.signature} ({outcome.seconds:.1f} s, {outcome.mebibytes:.0f} MiB)")
        print(outcome.text)
        return int(outcome.fault)

    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-found-"))
    chosen = [kind for name, kind in KINDS.items() if not options.only or name in options.only]
    print(f"seed {seed}", flush=True)
    tallies: dict[str, Tally] = {}
    for kind in chosen:
        tallies[kind.name] = try_kind(
            kind,
            seed=seed,
            inputs=options.inputs,
            seconds=60 * options.minutes / len(chosen),
            keep=keep,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(table(tallies))
    faults = [(name, *fault) for name, t in tallies.items() for fault in t.faults.most_common()]
    for name, signature, count in faults:
        print(f"{name}: {count} x {signature}")
    if faults:
        print(f"the inputs are in {keep}; run one again with --replay FOLDER")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
