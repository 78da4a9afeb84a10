"""The training benchmark, its own two ways at the size of a test."""

import importlib.util
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import byte_level_tokenizer, tiny_encoder, tiny_llm

from llava_rad.data import Study, StudyImage, save_manifest

PROGRAM = Path(__file__).parents[2] / "eval" / "speed" / "training.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("speed_training", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    tokenizer = byte_level_tokenizer()
    tiny_encoder().save_pretrained(folder / "encoder")
    tiny_llm("llama", len(tokenizer)).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    rng = np.random.default_rng(0)
    studies = []
    for number in range(6):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (60, 60), dtype=np.uint8)).save(path)
        images = (StudyImage(str(path), "frontal"),)
        text = "The lungs are clear. " * (1 + number % 3)
        studies.append(
            Study(f"s{number}", f"p{number}", split="train", images=images, findings=text)
        )
    save_manifest(studies, folder / "studies.jsonl")
    return Namespace(
        manifest=folder / "studies.jsonl",
        encoder=str(folder / "encoder"),
        llm=str(folder / "llm"),
        batch=2,
        steps=2,
        warmup=1,
        rank=4,
        pool=[1],
        dtypes=["fp32"],
    )


@pytest.mark.parametrize("way", ["plain", "floor"])
def test_each_way_trains_and_is_timed(program, arguments, way):
    found = program.MEASURES[way](arguments)
    assert found["per_second"] > 0
    assert found["peak_gb"] > 0.1
    if way == "plain":
        assert 4 < found["loss"] < 9  # an untrained LLM of 500 tokens


@pytest.mark.slow
def test_the_training_program_is_timed(program, arguments):
    found = program.MEASURES["project"](arguments)
    assert found["per_second"] > 0
    assert 4 < found["loss"] < 9


def test_the_table_compares_with_the_plain_way_of_the_same_dtype(program):
    row = {"dtype": "bf16", "pool": 1, "peak_gb": 1.0, "loss": None}
    rows = [
        {**row, "way": "project", "per_second": 3.0},
        {**row, "way": "plain", "per_second": 2.0},
    ]
    assert "| project | bf16 | no | 3.00 | 1.50 x | 1.00 |  |" in program.table(rows)
