"""The start-up benchmark measures what it says."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "startup.py"
spec = importlib.util.spec_from_file_location("startup_benchmark", FILE)
startup = importlib.util.module_from_spec(spec)
sys.modules["startup_benchmark"] = startup
spec.loader.exec_module(startup)


def test_a_process_s_own_time_and_memory_are_measured():
    idle = startup.measure([sys.executable, "-c", "import time; time.sleep(0.2)"])
    busy = startup.measure([sys.executable, "-c", "x = bytearray(10**8); sum(range(5 * 10**6))"])
    assert idle.wall > 0.2 and busy.cpu > idle.cpu
    assert 80 < busy.peak - idle.peak < 120
    with pytest.raises(SystemExit, match="ended with 3"):
        startup.measure([sys.executable, "-c", "raise SystemExit(3)"])


def test_medians_are_compared_with_the_first_command_s():
    runs = {
        "import": [startup.Run(2, 4, 700), startup.Run(3, 5, 800), startup.Run(90, 6, 900)],
        "report": [startup.Run(6, 10, 1200)],
    }
    assert startup.table(runs).splitlines()[2:] == [
        "| import | 3.0 | 1.00 x | 5.0 | 1.00 x | 800 |",
        "| report | 6.0 | 2.00 x | 10.0 | 2.00 x | 1200 |",
    ]
