"""A small run: a tiny encoder and LLM in folders, pictures, and a manifest."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from program_runs import run_program
from tiny_models import byte_level_tokenizer, tiny_encoder, tiny_llm
from training_runs import PROGRAM

from llava_rad.data import PriorStudy, Study, StudyImage, save_manifest

SENTENCES = [
    "The lungs are clear.",
    "No pleural effusion or pneumothorax is seen.",
    "Heart size is normal.",
    "There is a large right pleural effusion with adjacent atelectasis.",
    "Fracture of the left sixth rib.",
    "No acute disease.",
]


def write_studies(folder: Path, count: int = 23) -> Path:
    """Studies with one to five sentences; some with a lateral image, an indication, a prior."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()

    def image(name, view="frontal"):
        path = images / f"{name}.png"
        Image.fromarray(rng.integers(0, 256, (64, 60), dtype=np.uint8)).save(path)
        return StudyImage(str(path), view)

    studies = []
    for number in range(count):
        findings = " ".join(rng.choice(SENTENCES, 1 + number % 5))
        views = [image(f"{number}")] + (
            [image(f"{number}-l", "lateral")] if number % 3 == 0 else []
        )
        studies.append(
            Study(
                study_id=f"s{number}",
                patient_id=f"p{number}",
                split="validation" if number >= count - 5 else "train",
                images=tuple(views),
                indication="cough and fever" if number % 2 else None,
                prior=PriorStudy(f"before-{number}", (image(f"{number}-b"),), "No acute disease.")
                if number % 4 == 0
                else None,
                findings=findings,
            )
        )
    path = folder / "studies.jsonl"
    save_manifest(studies, path)
    return path


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Folder with ``encoder``, ``llm`` and ``studies.jsonl``."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = byte_level_tokenizer()
    tiny_encoder().save_pretrained(folder / "encoder")
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    write_studies(folder)
    return folder


@pytest.fixture(scope="session")
def settings(parts):
    """Overrides for a run of a few steps in float32."""
    stage = "{epochs: 2, lr: 3e-3, batch_size: 4, micro_batch: 2}"
    return [
        f"encoder={parts / 'encoder'}",
        f"llm={parts / 'llm'}",
        f"data.sources=[{{path: {parts / 'studies.jsonl'}}}]",
        f"data.cache_folder={parts / 'features'}",
        "data.images=[current_frontal, current_lateral, prior_frontal]",
        "data.context=[indication, prior_report]",
        "data.dropout={indication: 0.3, current_lateral: 0.3, prior_frontal: 0.3}",
        "lora={r: 4, alpha: 8, dropout: 0.1}",
        "adapter.pool=2",
        f"align={stage}",
        f"finetune={stage}",
        "precision=fp32",
        "log_steps=1",
        "checkpoint_steps=3",
    ]


@pytest.fixture(scope="session")
def train_in(settings):
    """Runs the program to the end.

    ``train_in(folder, name, *overrides) -> the run's folder, what it said``
    """

    def run(folder, name, *overrides, fails=False, **options):
        (folder / "empty.yaml").touch()
        succeeded, said = run_program(
            PROGRAM,
            [
                "--config",
                str(folder / "empty.yaml"),
                f"output={folder / name}",
                *settings,
                *overrides,
            ],
            folder / "log",
            **options,
        )
        assert succeeded != fails, said
        return folder / name, said

    return run


@pytest.fixture
def train(train_in, tmp_path):
    """As ``train_in``, in the test's own folder."""
    (tmp_path / "empty.yaml").touch()
    return partial(train_in, tmp_path)
