"""What happens when things go wrong: one table from real processes.

    python benchmarks/reliability.py [--short] [--only WORD]

Programs are killed, signalled, run twice at once, given full and read-only disks, damaged and
hostile files, and a DICOM file whose identifiers are marked. A row says how often that was tried
and how often all was well: the right exit code, one line and no traceback, and after a kill the
same bytes as without. Processes are forked from one that has imported everything. The trainings
have the same tests in tests/training. Exit codes: 0 all was well, 1 something was not.
"""

import argparse
import contextlib
import csv
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from PIL import Image

MARKS = ("QZMARKNAME", "QZMARKNUMBER", "QZMARKPLACE", "19010203", "QZMARKNOTE")
_WORDS = [
    "lungs",
    "are",
    "clear",
    "heart",
    "normal",
    "no",
    "effusion",
    "opacity",
    "left",
    "base",
    "small",
]


@dataclass
class Row:
    """One line of the table."""

    what: str
    case: str
    tried: int = 0
    held: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, trouble: str) -> None:
        """One more try; an empty text says that all was well."""
        self.tried += 1
        self.held += not trouble
        if trouble and len(self.notes) < 3:
            self.notes.append(trouble)


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its code (128 + signal if killed), texts, and peak memory in MB."""

    code: int
    out: str
    err: str
    peak: float

    def trouble(self, *codes: int, said: str = "", lines: bool = True) -> str:
        """What is wrong with it, empty if nothing is."""
        if "Traceback" in self.err:
            return f"traceback: {self.err.strip().splitlines()[-1]}"
        if self.code not in codes:
            return f"exit {self.code}: {self.err.strip()[-160:]}"
        if said not in self.err:
            return f"not said: {said!r}: {self.err.strip()[-160:]}"
        told = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return "no single line says why" if lines and 1 in codes and len(told) < 1 else ""


class Process:
    """A command in a fork of this process."""

    def __init__(self, arguments: list[Any], folder: Path) -> None:
        self._texts = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                for number, text in enumerate(self._texts, 1):
                    os.dup2(os.open(text, os.O_CREAT | os.O_WRONLY, 0o600), number)
                code = _run([str(argument) for argument in arguments])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for its end."""
        _, status, used = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        out, err = (text.read_text(errors="replace") for text in self._texts)
        for text in self._texts:
            text.unlink()
        return Ended(code if code >= 0 else 128 - code, out, err, used.ru_maxrss / 1000)


def _run(arguments: list[str]) -> int:
    from llava_rad.cli import main as command

    try:
        command(arguments)
    except SystemExit as ended:
        return int(ended.code or 0) if not isinstance(ended.code, str) else 1
    except BaseException:  # what a real process would print
        import traceback

        traceback.print_exc()
        return 1
    return 0


class Bench:
    """Inputs, commands, and the time that is left."""

    def __init__(self, folder: Path, *, short: bool) -> None:
        self.folder = folder
        self.short = short
        self.random = random.Random(0)
        self.until = time.monotonic() + 3600
        self.images = [folder / f"image{i}.png" for i in range(6)]
        generator = np.random.default_rng(0)
        for path in self.images:
            Image.fromarray(generator.integers(0, 255, (96, 80), dtype=np.uint8)).save(path)
        self.table = folder / "table.csv"
        with self.table.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "study_id", "patient_id", "split", "view", "findings"])
            (folder / "table").mkdir()
            for i in range(300):
                words = " ".join(self.random.choices(_WORDS, k=12)).capitalize() + "."
                name = f"table/image{i}.png"
                os.link(self.images[i % 6], folder / name)
                rows.writerow([name, f"s{i}", f"p{i}", "test", "PA", words])
        self.manifest = folder / "manifest.jsonl"
        with self.manifest.open("w") as file:
            for i, path in enumerate(self.images):
                study = {"study_id": f"s{i}", "patient_id": f"p{i}", "split": "test"}
                study |= {"images": [{"path": path.name, "view": "frontal"}]}
                file.write(json.dumps({**study, "findings": "The lungs are clear."}) + "\n")
        self.pairs = folder / "pairs.jsonl"
        with self.pairs.open("w") as file:
            for i in range(200):
                texts = [" ".join(self.random.choices(_WORDS, k=9)) for _ in range(2)]
                row = {"id": f"s{i}", "patient_id": f"p{i}"}
                file.write(json.dumps({**row, "prediction": texts[0], "reference": texts[1]}))
                file.write("\n")

    def commands(self) -> dict[str, Callable[[Path], list[Any]]]:
        """The commands by name, each writing into a folder."""
        short = ["--max-new-tokens", 8, "--batch-size", 1]  # so that there is something between two
        rules = ["--metrics", "bleu_coco,rouge", "--primary", "rouge/rougeL", "--resamples", 20]
        return {
            "report": lambda to: ["report", *self.images, "-o", to / "out.jsonl", *short],
            "report, text": lambda to: [
                *("report", *self.images, "-o", to / "out.txt", "--format", "text", *short)
            ],
            "encode": lambda to: [
                *("encode", *self.images, "-o", to / "out.safetensors", "--encoder", "mini"),
                *("--batch-size", 1),
            ],
            "data": lambda to: ["data", "csv", self.table, "-o", to / "out.jsonl"],
            "score": lambda to: ["score", self.pairs, "-o", to / "out", *rules],
            "evaluate": lambda to: [
                *("evaluate", "--model", "mini", "--manifest", self.manifest, "-o", to / "out"),
                *short,
                *rules,
            ],
        }

    def new(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def run(self, arguments: list[Any]) -> Ended:
        """Run a command to its end."""
        return Process(arguments, self.folder).wait()

    @property
    def late(self) -> bool:
        """Whether no more tries are begun."""
        return time.monotonic() > self.until


def content(folder: Path) -> dict[str, bytes]:
    """What a folder of results holds, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kills(bench: Bench) -> Iterator[Row]:
    """SIGKILL at moments spread over the whole run; the same command ends with the same bytes."""
    for name, command in bench.commands().items():
        row = Row("SIGKILL, then again", name)
        whole = bench.new()
        begun = time.monotonic()
        ended = bench.run(command(whole))
        seconds = time.monotonic() - begun
        if trouble := ended.trouble(0, lines=False):
            row.count(trouble)
            yield row
            continue
        expected = content(whole)
        tries = 2 if bench.short else 12
        for i in range(tries):
            if bench.late:
                break
            folder = bench.new()
            process = Process(command(folder), bench.folder)
            time.sleep(seconds * (i + bench.random.random()) / tries)
            process.send(signal.SIGKILL)
            process.wait()
            again = bench.run(command(folder))
            found = {k: v for k, v in content(folder).items() if not k.startswith(".out.")}
            differing = sorted(k for k in expected if found.get(k) != expected[k])
            extra = sorted(found.keys() - expected.keys())
            row.count(
                again.trouble(0, lines=False)
                or (f"differ: {', '.join(differing)}" if differing else "")
                or (f"left behind: {', '.join(extra)}" if extra else "")
            )
            shutil.rmtree(folder)
        yield row


def signals(bench: Bench) -> Iterator[Row]:
    """SIGINT and SIGTERM in the middle: one line, exit 130 or 143 (or done before)."""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for name, command in bench.commands().items():
            row = Row(number.name, name)
            for wait in (0.3,) if bench.short else (0.1, 0.4, 0.8, 1.5, 2.5):
                if bench.late:
                    break
                process = Process(command(bench.new()), bench.folder)
                time.sleep(wait)
                process.send(number)
                row.count(process.wait().trouble(code, 0, lines=False))
            yield row


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def disks(bench: Bench) -> Iterator[Row]:
    """Disks that are full, and that may not be written to."""
    for what, options in (("full disk", "size=4k"), ("read-only disk", "size=64k,ro")):
        for name, command in bench.commands().items():
            row = Row(what, name)
            folder = bench.new()
            if not mount(folder, options):
                row.notes.append("skipped: nothing can be mounted here")
            elif not bench.late:
                try:
                    if what == "full disk":  # nothing is left
                        filler = folder / "filler"
                        with contextlib.suppress(OSError), filler.open("wb") as file:
                            file.write(bytes(1 << 20))
                    row.count(bench.run(command(folder)).trouble(1))
                finally:
                    subprocess.run(["umount", "-l", str(folder)], check=False)
            yield row


def twice(bench: Bench) -> Iterator[Row]:
    """A second run beside the first is refused with its process; the first ends as ever."""
    for name in ("report", "encode", "evaluate"):
        row = Row("two at once", name)
        for _ in range(1 if bench.short else 5):
            if bench.late:
                break
            folder = bench.new()
            command = bench.commands()[name](folder)
            first = Process(command, bench.folder)
            lock = None
            end = time.monotonic() + 60
            while lock is None and time.monotonic() < end:
                lock = next((p for p in folder.rglob(".*lock") if p.stat().st_size), None)
                time.sleep(0.01)
            first.send(signal.SIGSTOP)
            second = bench.run(command)
            first.send(signal.SIGCONT)
            row.count(
                second.trouble(1, said=f"process {first.pid} on ")
                or first.wait().trouble(0, lines=False)
            )
        yield row


def bad_files(bench: Bench) -> Iterator[Row]:
    """Damaged and hostile files end in one line."""
    import pickle

    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(bench.folder / "PLANTED"),)

    picture = bench.images[0].read_bytes()
    made = {
        "cut.png": picture[:200],
        "bit.png": picture[:100] + bytes([picture[100] ^ 255]) + picture[101:],
        "empty.png": b"",
        "text.dcm": b"not an image",
        "huge.png": picture[:16] + b"\x7f\xff\xff\xff" * 2 + picture[24:],
        "pickle.png": pickle.dumps(Planted()),
        "deep.jsonl": b"[" * 100_000,
        "binary.jsonl": bytes(range(256)),
        "zero.parquet": b"PAR1" + bytes(100) + b"PAR1",
    }
    row = Row("damaged and hostile", "files given to report")
    for name, what in made.items():
        file = bench.new() / name
        file.write_bytes(what)
        if not bench.late:
            ended = bench.run(["report", file, "-o", file.with_name("out.jsonl")])
            row.count(f"{name}: {trouble}" if (trouble := ended.trouble(1, 2)) else "")
    row.count("a pickle ran" if (bench.folder / "PLANTED").exists() else "")
    yield row

    import llava_rad
    from llava_rad.files import read_tensors, write_tensors

    row = Row("damaged and hostile", "bits of a model")
    source = Path(llava_rad.__file__).parent / "mini"
    for name in ("adapter.safetensors", "config.json", "processor.json"):
        if bench.late:
            break
        model = bench.new() / "model"
        shutil.copytree(source, model)
        if name.endswith(".safetensors"):  # with the checksums that this version writes
            write_tensors(read_tensors(model / name), model / name)
        damaged = bytearray((model / name).read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        (model / name).write_bytes(damaged)
        ended = bench.run(["report", bench.images[0], "--model", model, "--max-new-tokens", 2])
        row.count(f"{name}: {trouble}" if (trouble := ended.trouble(1, 2)) else "")
    yield row

    row = Row("inputs and strangers", "outputs that are refused")
    for command in (
        ["report", bench.images[0], "-o", bench.images[0]],
        ["report", bench.images[0], "-o", bench.table],
        ["encode", bench.images[0], "-o", bench.images[0], "--encoder", "mini"],
        ["data", "csv", bench.table, "-o", bench.pairs],
        ["score", bench.pairs, "-o", bench.images[0]],
    ):
        before = content(bench.folder)
        trouble = bench.run(command).trouble(1, 2)
        lost = [name for name, old in before.items() if content(bench.folder).get(name) != old]
        row.count(trouble or (f"changed: {lost}" if lost else ""))
    yield row


def marked_file(path: Path, *, damaged: bool) -> None:
    """A DICOM file with marks in its identifiers; one length byte may be damaged."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.7.{int(damaged)}"
    dataset.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.8.{int(damaged)}"
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.PatientName, dataset.PatientID, dataset.InstitutionName, _, _ = MARKS
    dataset.StudyDate = dataset.PatientBirthDate = MARKS[3]
    dataset.PatientComments = dataset.StudyDescription = MARKS[4]
    dataset.Rows = dataset.Columns = 64
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    if damaged:
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"\x08\x00\x60\x00CS") + 6] = 0xF0  # Modality swallows what follows
        path.write_bytes(raw)


def marks(bench: Bench) -> Iterator[Row]:
    """Marked identifiers appear nowhere: not in outputs, caches, or what is said."""
    folder, cache = bench.new(), bench.new()
    for damaged in (False, True):
        marked_file(folder / f"scan{int(damaged)}.dcm", damaged=damaged)
    os.environ["LLAVA_RAD_CACHE"] = str(cache)
    to = bench.new()
    manifest = to / "manifest.jsonl"
    short = ["--max-new-tokens", 4]
    for name, command in {
        "report": ["report", folder, "-o", to / "out.jsonl", *short],
        "report, text": ["report", folder, *short],
        "encode": ["encode", folder, "-o", to / "out.safetensors", "--encoder", "mini"],
        "data": ["data", "folder", folder, "-o", manifest],
        "data check": ["data", "check", manifest],
        "report of manifest": ["report", manifest, "-o", to / "again.jsonl", *short],
    }.items():
        row = Row("marked identifiers", name)
        if not bench.late:
            ended = bench.run(command)
            texts = {"stdout": ended.out, "stderr": ended.err}
            for place in (to, cache):
                texts |= {k: v.decode("latin-1") for k, v in content(place).items()}
            found = [f"{mark} in {k}" for k, v in texts.items() for mark in MARKS if mark in v]
            row.count(ended.trouble(0, 1, lines=False) or "; ".join(found))
        yield row


def slopes(bench: Bench) -> Iterator[Row]:
    """Memory that more inputs take."""
    few, many = (10, 40) if bench.short else (20, 220)
    folder = bench.new()
    for i in range(many):
        shutil.copy(bench.images[0], folder / f"image{i:03}.png")
    files = sorted(folder.iterdir())
    for name, command in {
        "report": lambda some, to: ["report", *some, "-o", to / "o.jsonl", "--max-new-tokens", 2],
        "encode": lambda some, to: [
            *("encode", *some, "-o", to / "o.safetensors", "--encoder", "mini")
        ],
    }.items():
        row = Row("memory", name)
        if not bench.late:
            peaks = []
            for count in (few, many):
                peaks.append(bench.run(command(files[:count], bench.new())).peak)
            slope = 100 * (peaks[1] - peaks[0]) / (many - few)
            row.count("" if slope < 40 else "memory grows")
            row.notes.append(f"{slope:+.0f} MB per 100 images")
        yield row


def warm_up() -> None:
    """Import what the commands need, but compute nothing: threads do not survive a fork."""
    for name in (
        "llava_rad.cli.app",
        "llava_rad.encoding",
        "llava_rad.evaluation.controls",
        "llava_rad.reports.study",
        "transformers.models.llama.modeling_llama",
        "transformers.models.dinov2.modeling_dinov2",
        "accelerate",
        "peft",
        "nltk",
        "sklearn.feature_extraction.text",
        "pydicom",
    ):
        importlib.import_module(name)


CASES = (kills, signals, disks, twice, bad_files, marks, slopes)


def main() -> int:
    """Try everything; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--short", action="store_true", help="a few tries of each, in minutes")
    parser.add_argument("--minutes", type=float, help="no try begins later; default: 55, short 3")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), short=chosen.short)
        warm_up()
        bench.until = time.monotonic() + 60 * (chosen.minutes or (3 if chosen.short else 55))
        print(f"{'what':<22} {'of':<26} {'tried':>5} {'well':>5}  notes", flush=True)
        # The quick ones first, so that a short time leaves none of them out.
        for case in CASES[::-1]:
            if chosen.only in case.__name__:
                for row in case(bench):
                    rows.append(row)
                    print(
                        f"{row.what:<22} {row.case:<26} {row.tried:>5} {row.held:>5}  "
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
