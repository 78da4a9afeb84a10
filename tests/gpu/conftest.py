"""Tests that need a GPU; without one they are skipped."""

import signal

import pytest
import torch
import torch._inductor.config
from accelerate.state import AcceleratorState

SECONDS = 45  # a test; one that hangs in a compiler must not take the others with it


def pytest_collection_modifyitems(items):
    """Compiling comes last: it takes the longest and may hang."""
    items.sort(key=lambda item: item.get_closest_marker("compiles") is not None)


@pytest.fixture(autouse=True)
def gpu():
    """The GPU, in its usual state before and after each test."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of an earlier test
    torch._inductor.config.compile_threads = 1  # these layers are too few for workers to pay
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    yield torch.device("cuda")
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    torch.cuda.set_sync_debug_mode("default")
    torch._dynamo.reset()


def _stop(number, frame):
    raise TimeoutError(f"took more than {SECONDS} s")
