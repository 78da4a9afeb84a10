"""Waiting for processes and threads, without a clock in what is tested."""

import socket
import time

PATIENCE = 600  # seconds, for a machine that is busy; what is broken waits as long


def wait_for(happened):
    """Ask again and again until it is true; fails when nobody would wait any longer."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
