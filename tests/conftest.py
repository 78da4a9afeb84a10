"""Fixtures that every test folder shares."""

import os
from pathlib import Path

# No test may reach a model hub; set before any Hugging Face library is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

ROOT = Path(__file__).parents[1]


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
def shared_cases() -> Path:
    """Small inputs made from public bug reports, with the right result."""
    return _shared("cases")
