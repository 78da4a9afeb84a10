"""Tests that need a GPU; without one they are skipped."""

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu():
    """The GPU, in its usual state before and after each test."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")
    torch._dynamo.reset()
