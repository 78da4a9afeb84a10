"""What a report training starts from: a tiny encoder and LLM in folders, pictures, a manifest."""

from pathlib import Path

import numpy as np
from helpers.tiny_models import byte_level_tokenizer, tiny_encoder, tiny_llm
from PIL import Image

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


def make_parts(folder: Path) -> Path:
    """Fill a folder with ``encoder``, ``llm`` and ``studies.jsonl``."""
    tokenizer = byte_level_tokenizer()
    tiny_encoder().save_pretrained(folder / "encoder")
    llm = tiny_llm("llama", len(tokenizer))
    llm.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    write_studies(folder)
    return folder
