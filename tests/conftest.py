"""Fixtures that every test folder shares."""

import json
import os
import random
import signal
from pathlib import Path

# No test may reach a model hub; set before any Hugging Face library is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The same arithmetic on every machine: dtype auto is float32 on a CPU with bfloat16 units too.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import pytest
from helpers.words import WORDS

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Heed SIGINT, which a shell that starts the tests in the background has them ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _shared(name: str) -> Path:
    folder = (ROOT / ".." / "shared" / name).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/{name} beside the checkout, which is not there")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real X-rays and reports."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_parity() -> Path:
    """Outputs of reference implementations."""
    return _shared("parity")


@pytest.fixture(scope="session")
def metric_parity(shared_parity) -> dict:
    """200 pairs and what other people's scorers gave for them."""
    return json.loads((shared_parity / "report_metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Small inputs made from public bug reports, with the right result."""
    return _shared("cases")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """60 random word sequences, some with capitals, line breaks or nothing in them."""
    generator = random.Random(0)
    made = [" ".join(generator.choices(WORDS, k=generator.randint(1, 25))) for _ in range(56)]
    made[3] = made[3].upper()
    made[5] = "The lungs are clear.\nNo effusion. Heart is normal."
    made[7] = "No effusion.\nHeart is normal.\nThe lungs are clear."
    return [*made, "", "   ", "no", "No pneumothorax."]
