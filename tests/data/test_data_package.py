"""The data package imports nothing heavy."""

import subprocess
import sys


def test_import_is_light() -> None:
    code = (
        "import sys, llava_rad.data\n"
        "heavy = ('torch', 'datasets', 'pyarrow', 'pandas', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
