"""The command `edje` without its script."""

import subprocess
import sys

import pytest

import edje


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [("--version", 0, f"edje {edje.__version__}\n"), ("serch", 1, "Did you mean search?")],
)
def test_python_m_edje_is_the_command_edje(given: str, status: int, said: str) -> None:
    command = [sys.executable, "-m", "edje", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
