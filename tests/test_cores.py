"""Claims about the cores that a process counts on."""

import os
from pathlib import Path

import pytest

import edje
from edje.cores import cores


def test_cores_are_those_that_this_process_may_use_or_all_where_no_system_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cores() == 9


def test_nothing_else_asks_for_what_only_linux_has() -> None:
    folder = Path(edje.__file__).parent
    asking = [path for path in folder.rglob("*.py") if "sched_getaffinity" in path.read_text()]
    assert asking == [folder / "cores.py"]
