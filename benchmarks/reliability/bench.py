"""What the programs are run on, the programs with their results, and the time that is left."""

import csv
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from processes import Ended, Process

import llava_rad
from llava_rad.tensor_files import read_tensors

MINI = Path(llava_rad.__file__).parent / "mini"
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
_STUDIES = 12


@dataclass(frozen=True)
class Program:
    """A program as this table runs it.

    Attributes:
        work: command or function that writes its results into a folder, under names with ``out``.
        resumes: what it has done is kept, so that signals and kills may be followed by a resume.
        locks: it keeps a second run out.
        refuses: a result that is there is refused, not made again.
    """

    work: Callable[[Path], Any]
    resumes: bool = True
    locks: bool = True
    refuses: bool = False


class Bench:
    """Inputs and programs.

    Args:
        folder: for all that is made.
        short: a few tries of each.

    Attributes:
        until: no try begins later, by the monotonic clock.
    """

    def __init__(self, folder: Path, *, short: bool) -> None:
        self.folder = folder
        self.short = short
        self.until = float("inf")
        self.random = random.Random(0)
        self.images = [folder / f"image{i}.png" for i in range(_STUDIES)]
        generator = np.random.default_rng(0)
        for number, path in enumerate(self.images):
            dark = generator.integers(0, 100, (96, 80), dtype=np.uint8)
            Image.fromarray(dark + 150 * (number % 2)).save(path)
        self.six = self.images[:6]
        self.table = self._table()
        self.manifest = self._manifest("manifest", lambda i: "test")
        splits = ("train", "train", "test", "train", "validation", "test")
        self.learning = self._manifest("learning", lambda i: splits[i // 2 % 6])
        self.pairs = folder / "pairs.jsonl"
        with self.pairs.open("w") as file:
            for i in range(200):
                row = {"id": f"s{i}", "patient_id": f"p{i}", "prediction": self._text()}
                file.write(json.dumps({**row, "reference": self._text()}) + "\n")
        self.llm = folder / "llm"
        if problem := self.run(self._make_llm).trouble(0):
            raise RuntimeError(problem)
        self.pretraining = folder / "pretraining.yaml"
        self.pretraining.write_text(_PRETRAINING.format(folder=folder, encoder=MINI / "encoder"))
        self.training = folder / "training.yaml"
        self.training.write_text(
            _TRAINING.format(
                encoder=MINI / "encoder", llm=self.llm, manifest=self.learning, folder=folder
            )
        )

    def _text(self) -> str:
        return " ".join(self.random.choices(_WORDS, k=9)).capitalize() + "."

    def _table(self) -> Path:
        table = self.folder / "table.csv"
        (self.folder / "table").mkdir()
        with table.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "study_id", "patient_id", "split", "view", "findings"])
            for i in range(300):
                name = f"table/image{i}.png"
                os.link(self.images[i % 6], self.folder / name)
                rows.writerow([name, f"s{i}", f"p{i}", "test", "PA", self._text()])
        return table

    def _manifest(self, name: str, split: Callable[[int], str]) -> Path:
        path = self.folder / f"{name}.jsonl"
        with path.open("w") as file:
            for i, image in enumerate(self.images):
                study: dict[str, Any] = {
                    "study_id": f"s{i}",
                    "patient_id": f"p{i}",
                    "split": split(i),
                }
                study |= {"images": [{"path": image.name, "view": "frontal"}]}
                study |= {"findings": self._text(), "labels": {"Bright": float(i % 2)}}
                file.write(json.dumps(study) + "\n")
        return path

    def _make_llm(self) -> None:
        """A small LLM with the mini model's tokenizer."""
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(MINI / "tokenizer")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
        LlamaForCausalLM(config).save_pretrained(self.llm)
        tokenizer.save_pretrained(self.llm)

    def programs(self) -> dict[str, Program]:
        """The programs by name."""
        short = ["--max-new-tokens", 8]
        rules = ["--metrics", "bleu_coco,rouge", "--primary", "rouge/rougeL", "--resamples", 20]
        report = ["report", *self.six, "--model", self.model(), *short]
        evaluate = ["evaluate", "--model", self.model(), "--manifest", self.manifest, *rules]
        probe = ["probe", "classification", "--encoder", MINI / "encoder"]
        return {
            "report": Program(lambda to: [*report, "-o", to / "out.jsonl"]),
            "report, text": Program(lambda to: [*report, "-o", to / "out.txt", "--format", "text"]),
            "encode": Program(
                lambda to: [
                    *("encode", *self.images, "-o", to / "out.safetensors"),
                    *("--encoder", MINI / "encoder", "--batch-size", 1),
                ]
            ),
            "data": Program(
                lambda to: ["data", "csv", self.table, "-o", to / "out.jsonl"], resumes=False
            ),
            "evaluate": Program(
                lambda to: [*evaluate, "-o", to / "out", "--batch-size", 1, *short]
            ),
            "score": Program(
                lambda to: ["score", self.pairs, "-o", to / "out", *rules], resumes=False
            ),
            "probe": Program(
                lambda to: [
                    *(*probe, "--manifest", self.learning, "--cache", to / "cache"),
                    *("-o", to / "out.json", "--save", to / "out"),
                ],
                resumes=False,
            ),
            "train report": Program(
                lambda to: ["train", "report", self.training, f"output={to / 'out'}"]
            ),
            "train encoder": Program(
                lambda to: ["train", "encoder", self.pretraining, f"output={to / 'out'}"]
            ),
            "convert": Program(
                lambda to: ["convert", self.model(), "-o", to / "out", "--to", "transformers"],
                resumes=False,
                refuses=True,
            ),
            "feature cache": Program(lambda to: self._fill_features(to), locks=False),
            "image cache": Program(lambda to: self._fill_images(to), resumes=False, locks=False),
        }

    def model(self) -> Path:
        """A small trained report model."""
        folder = self.folder / "trained"
        if not folder.exists():
            ended = self.run(["train", "report", self.training, f"output={folder}"])
            if trouble := ended.trouble(0):
                raise RuntimeError(trouble)
        return folder / "align"

    def _fill_features(self, to: Path) -> Callable[[], None]:
        def fill() -> None:
            from llava_rad import features, load_encoder
            from llava_rad.tensor_files import write_tensors

            features.BATCH, features._SHARD_BYTES = 1, 1  # a shard an image
            cache = features.FeatureStore(to / "cache", load_encoder(MINI / "encoder"))
            paths = [str(path) for path in self.images]
            cache.fill(paths)
            write_tensors({"patches": cache.read(paths)}, to / "out.safetensors")

        return fill

    def _fill_images(self, to: Path) -> Callable[[], None]:
        def fill() -> None:
            from llava_rad.dinov2.image_cache import build_cache
            from llava_rad.dinov2.image_sources import image_folder
            from llava_rad.files import write_bytes

            cache = build_cache(image_folder(self.folder / "table"), to / "cache", 64)
            write_bytes(
                to / "out.bin", b"".join(cache.read(i).tobytes() for i in range(len(cache)))
            )

        return fill

    def new(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def start(self, work: Any, **options: Any) -> Process:
        """Start a command or a function."""
        return Process(work, self.folder, **options)

    def run(self, work: Any, **options: Any) -> Ended:
        """Run a command or a function to its end."""
        return self.start(work, **options).wait()

    @property
    def late(self) -> bool:
        """Whether no more tries are begun."""
        return time.monotonic() > self.until


def content(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def difference(found: Path, expected: Path) -> str:
    """How the results in two folders differ; empty where they do not.

    Of trainings and probes the weights count, to 1e-6; of all others each byte. Caches name their
    files by chance. No run leaves temporary files of one before it.
    """
    left = [path.name for path in found.rglob("*") if path.name.endswith(".partial")]
    if left:
        return f"left behind: {', '.join(left)}"
    if (expected / "out" / "checkpoints").is_dir():
        return _other_weights(found / "out", expected / "out")
    ours, theirs = (
        {k: v for k, v in content(folder).items() if k.startswith("out")}
        for folder in (found, expected)
    )
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    # Images that were in the cache were encoded in other company.
    if differing == ["out/linear_probe.safetensors"]:
        return _other_weights(found / "out", expected / "out")
    return f"differ: {', '.join(differing)}" if differing else ""


def _other_weights(found: Path, expected: Path) -> str:
    import torch

    for path in sorted(expected.rglob("*.safetensors")):
        name = path.relative_to(expected)
        if name.parts[0] in ("features", "cache"):
            continue
        if not (found / name).is_file():
            return f"missing: {name}"
        ours, theirs = read_tensors(found / name), read_tensors(path)
        if ours.keys() != theirs.keys() or not all(
            torch.allclose(ours[k].float(), theirs[k].float(), rtol=0, atol=1e-6) for k in theirs
        ):
            return f"differ: {name}"
    return ""


_PRETRAINING = """
data: {{sources: [{{path: {folder}/learning.jsonl}}], cache_size: 48, workers: 0}}
backbone: {{encoder: {encoder}, drop_path: 0.2}}
crops: {{global_size: 28, local_size: 14, local_count: 2}}
head: {{prototypes: 16, hidden_dim: 16, bottleneck_dim: 8}}
schedule: {{epochs: 4, warmup_epochs: 1, temperature_epochs: 2}}
optimiser: {{batch_size: 4, layer_decay: 1.0}}
precision: fp32
stop_when_collapsed: false
log_steps: 1
checkpoint_steps: 2
trackers: []
"""

_TRAINING = """
encoder: {encoder}
llm: {llm}
data: {{sources: [{{path: {manifest}}}], cache_folder: {folder}/features}}
lora: {{r: 4, alpha: 8, dropout: 0.1}}
stage: align
align: {{epochs: 6, lr: 3.0e-3, batch_size: 2, micro_batch: 1}}
precision: fp32
log_steps: 1
checkpoint_steps: 2
trackers: []
"""
