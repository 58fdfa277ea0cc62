"""Claims about the garbage collector in commands that load much and end soon."""

import subprocess
import sys

COMMAND = """
import atexit, gc
own, frozen = gc.get_threshold()[0], gc.get_freeze_count()  # Python's, which differ by version
atexit.register(lambda: print(gc.get_freeze_count() > frozen))  # called last
from edje.command import on_index
print(gc.get_threshold()[0] == own < 50_000)
on_index(["search", "nowhere.edje", "a dog"])
print(gc.get_threshold()[0], gc.isenabled(), gc.get_freeze_count() == frozen)
"""


def test_a_command_on_an_index_collects_rarely_and_not_at_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True)
    assert "nowhere.edje" in done.stderr
    assert done.stdout.split() == ["True", "50000", "True", "True", "True"]
