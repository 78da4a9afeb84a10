"""The short form of the reliability table."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "reliability.py"


@pytest.mark.check
def test_all_ends_as_it_should():
    done = subprocess.run(
        [sys.executable, PROGRAM, "--short"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
