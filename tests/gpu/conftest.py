"""Tests that need a GPU; without one they are skipped."""

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def gpu():
    """The GPU, in its usual state before and after each test."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of an earlier test
    yield torch.device("cuda")
    torch.cuda.set_sync_debug_mode("default")
    torch._dynamo.reset()
