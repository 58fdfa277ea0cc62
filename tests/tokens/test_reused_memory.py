"""Claims about memory that is used again: never while somebody still looks at it."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from edje.tokens import reused_memory
from edje.tokens.reused_memory import ReusedMemory

WORDS = 16


@pytest.fixture(autouse=True)
def every_size_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reused_memory, "_LEAST", WORDS)


def test_what_nobody_refers_to_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ReusedMemory(WORDS)
    first, second = memory.rows(1000), memory.rows(1000)
    places = {first.ctypes.data, second.ctypes.data}
    assert first.shape == (1000, WORDS) and len(places) == 2
    assert {place % 4096 for place in places} == {1024}
    monkeypatch.setattr(np, "empty", None)  # nothing new is asked for
    del first, second
    for count in (1000, 999, 600):
        assert memory.rows(count).ctypes.data in places


@pytest.mark.parametrize(
    "keep",
    [
        lambda rows: rows,
        lambda rows: rows[3:4, ::2],
        lambda rows: rows.view(np.uint8)[5],
        lambda rows: torch.from_numpy(rows),
        lambda rows: torch.from_numpy(rows.view(np.uint8)).view(torch.bfloat16)[0, :2],
    ],
)
def test_whatever_is_kept_of_it_keeps_it(keep) -> None:
    memory = ReusedMemory(WORDS)
    kept = []
    for number in range(5):  # more than it keeps itself
        rows = memory.rows(50)
        rows[:] = number
        kept.append(keep(rows))
    del rows
    for number, part in enumerate(kept):
        expected = keep(np.full((50, WORDS), number))
        assert np.array_equal(torch.as_tensor(part).float(), torch.as_tensor(expected).float())


def test_a_small_array_does_not_hold_large_memory() -> None:
    memory = ReusedMemory(WORDS)
    large = memory.rows(10_000).ctypes.data
    small = memory.rows(100)
    assert not large <= small.ctypes.data < large + 10_000 * WORDS * 8


def test_threads_never_share_an_array() -> None:
    memory = ReusedMemory(WORDS)

    def write(number: int) -> bool:
        rows = memory.rows(random.choice([2000, 3000]))
        rows[:] = number
        return bool((rows == number).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, range(2000)))


def test_sizes_that_the_c_library_serves_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reused_memory, "_LEAST", 10 * WORDS)
    monkeypatch.setattr(reused_memory, "_MOST", 20 * WORDS)
    memory = ReusedMemory(WORDS)
    assert [count for count in range(30) if memory.is_large(count)] == list(range(10, 21))
    assert memory.rows(0).shape == (0, WORDS) and memory.rows(21).base is None
