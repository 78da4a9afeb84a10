"""Identifiers of patients are marked, and looked for in all that the programs leave behind."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench import MINI, Bench, content
from processes import Row

#: Name, number, place, date and free text in the headers.
MARKS = ("QZMARKNAME", "QZMARKNUMBER", "QZMARKPLACE", "19010203", "QZMARKNOTE")
_FILES = 12


def write_marked(path: Path, number: int, *, damaged: bool) -> None:
    """A DICOM file with marks in its identifiers; one length byte may be damaged."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.7.{number}"
    dataset.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.8.{number}"
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.PatientName, dataset.PatientID, dataset.InstitutionName, _, _ = MARKS
    dataset.PatientID += str(number)
    dataset.StudyDate = dataset.PatientBirthDate = MARKS[3]
    dataset.PatientComments = dataset.StudyDescription = MARKS[4]
    dataset.Rows = dataset.Columns = 64
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    pixels = np.random.default_rng(number).integers(0, 4096, (64, 64), dtype=np.uint16)
    dataset.PixelData = (pixels // 2 + 1000 * (number % 2)).astype(np.uint16).tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    if damaged:
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"\x08\x00\x60\x00CS") + 6] = 0xF0  # Modality swallows what follows
        path.write_bytes(raw)


def marks(bench: Bench) -> Iterator[Row]:
    """Marked identifiers appear nowhere: not in outputs, caches, logs, or what is said."""
    files, cache, to = bench.new(), bench.new(), bench.new()
    for number in range(_FILES):
        write_marked(files / f"scan{number}.dcm", number, damaged=False)
    write_marked(files / "damaged.dcm", _FILES, damaged=True)
    before, os.environ["LLAVA_RAD_CACHE"] = os.environ.get("LLAVA_RAD_CACHE"), str(cache)
    made = to / "manifest.jsonl"
    studies = to / "studies.jsonl"
    model, short = bench.model(), ["--max-new-tokens", 4]
    rules = ["--metrics", "bleu_coco,rouge", "--primary", "rouge/rougeL", "--resamples", 20]
    probe = ["--encoder", MINI / "encoder", "--manifest", studies, "--cache", to / "features"]
    commands: dict[str, list[Any]] = {
        "report": ["report", files, "--model", model, "-o", to / "out.jsonl", *short],
        "report, text": ["report", files, "--model", model, *short],
        "encode": ["encode", files, "-o", to / "o.safetensors", "--encoder", MINI / "encoder"],
        "data": ["data", "folder", files, "-o", made],
        "data check": ["data", "check", made],
        "report of manifest": ["report", made, "--model", model, "-o", to / "o.jsonl", *short],
        "evaluate": [
            *("evaluate", "--model", model, "--manifest", studies, "-o", to / "evaluated"),
            *(*rules, *short),
        ],
        "score": ["score", to / "evaluated" / "predictions.jsonl", "-o", to / "scored", *rules],
        "probe classification": [
            *("probe", "classification", *probe, "-o", to / "probe.json"),
            *("--save", to / "probe"),
        ],
        "visualise": ["visualise", *probe, "-o", to / "seen", "--images", 2, "--neighbours", 1],
        "train report": [
            *("train", "report", bench.training, f"output={to / 'report'}"),
            f"data.sources=[{{path: {studies}}}]",
        ],
        "train encoder": [
            *("train", "encoder", bench.pretraining, f"output={to / 'encoder'}"),
            f"data.sources=[{{path: {studies}}}]",
        ],
        "cache list": ["cache", "list"],
    }
    try:
        for name, command in commands.items():
            row = Row("marked identifiers", name)
            if name == "evaluate":
                learnable(made, studies)
            if not bench.late:
                ended = bench.run(command)
                texts = {"stdout": ended.out, "stderr": ended.err}
                for place in (to, cache):
                    texts |= {k: v.decode("latin-1") for k, v in content(place).items()}
                found = [f"{mark} in {k}" for k, v in texts.items() for mark in MARKS if mark in v]
                # The damaged file may fail in the first ones.
                row.count(ended.trouble(0, 1, lines=False) or "; ".join(found))
            yield row
    finally:
        if before is None:
            del os.environ["LLAVA_RAD_CACHE"]
        else:
            os.environ["LLAVA_RAD_CACHE"] = before


def learnable(made: Path, studies: Path) -> None:
    """The manifest of the files with splits, findings and a label."""
    if not made.exists():
        return
    splits = ("train", "train", "test", "validation")
    with studies.open("w") as file:
        for number, line in enumerate(made.read_text().splitlines()):
            row = json.loads(line)
            row |= {"split": splits[number // 2 % 4], "findings": "The lungs are clear."}
            row |= {"labels": [{"name": "Bright", "value": float(number % 2)}]}
            file.write(json.dumps(row) + "\n")
