"""The start-up benchmark measures what it says."""

import importlib.util
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "startup.py"
spec = importlib.util.spec_from_file_location("startup_benchmark", FILE)
startup = importlib.util.module_from_spec(spec)
sys.modules["startup_benchmark"] = startup
spec.loader.exec_module(startup)


# Linux counts into a process's peak what the one that started it held, which is little here.
MEASURE = """
import sys; sys.path.insert(0, sys.argv[1]); import startup
idle = startup.measure([sys.executable, "-c", "import time; time.sleep(0.2)"])
busy = startup.measure([sys.executable, "-c", "x = bytearray(b'1') * 10**8; sum(range(5 * 10**6))"])
print(idle.wall > 0.2, busy.cpu > idle.cpu, 80 < busy.peak - idle.peak < 120)
startup.measure([sys.executable, "-c", "raise SystemExit(3)"])
"""


def test_a_process_s_own_time_and_memory_are_measured():
    command = [sys.executable, "-c", MEASURE, str(FILE.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3
    assert done.returncode == 1 and "ended with 3" in done.stderr


def test_medians_are_compared_with_the_first_command_s():
    runs = {
        "import": [startup.Run(2, 4, 700), startup.Run(3, 5, 800), startup.Run(90, 6, 900)],
        "report": [startup.Run(6, 10, 1200)],
    }
    assert startup.table(runs).splitlines()[2:] == [
        "| import | 3.0 | 1.00 x | 5.0 | 1.00 x | 800 |",
        "| report | 6.0 | 2.00 x | 10.0 | 2.00 x | 1200 |",
    ]
