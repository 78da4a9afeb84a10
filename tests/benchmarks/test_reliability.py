"""The short form of the table: a few kills, signals, full disks, damaged files ... of each."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "reliability"


@pytest.mark.check
def test_all_is_well_in_the_short_form():
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--short"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
