"""All tests marked ``gpu``. Writes tests.xml, as JUnit does."""

import subprocess
import sys
from pathlib import Path

from gpu.arguments import parsed


def files():
    """The files with a test that is marked ``gpu``; the other files may need packages that this machine lacks."""
    tests = Path(__file__).parents[1]
    return sorted(str(file) for file in tests.rglob("test_*.py") if "@pytest.mark.gpu" in file.read_text())


if __name__ == "__main__":
    given = parsed(__doc__)
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-m", "gpu", "--durations=10"]
    chosen = files()[:1] if given.miniature else files()  # on the CPU they are all skipped
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={given.out / 'tests.xml'}", "-rs", *chosen]
    sys.exit(subprocess.run(command, check=False).returncode)
