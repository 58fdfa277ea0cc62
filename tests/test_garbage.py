"""Claims about the garbage collector in commands that load much and end soon."""

import subprocess
import sys

COMMAND = """
import atexit, gc
print(gc.get_threshold()[0])  # Python's own: 700 or 2,000
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # called last
from edje.command import on_index
print(gc.get_threshold()[0])
on_index(["search", "nowhere.edje", "a dog"])
print(gc.get_threshold()[0], gc.isenabled(), gc.get_freeze_count())
"""


def test_a_command_on_an_index_collects_rarely_and_not_at_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True)
    assert "nowhere.edje" in done.stderr
    own, before, *after = done.stdout.split()
    assert before == own and int(own) < 50_000
    assert after == ["50000", "True", "0", "True"]
