"""Shares of ceilings, by a clock that is told how long everything takes."""

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch

from edje.benchmark import ceiling, measure
from edje.benchmark.ceiling import Ceiling, Ceilings, Shape
from edje.benchmark.entry import Entry
from edje.benchmark.measure import timed_rows
from edje.benchmark.settings import Benchmark

CPU = torch.device("cpu")
SIDE = 10  # of the square products: 2,000 operations
SIZES = {"width": 4, "hidden_width": 8, "warmup": 1, "min_runs": 3, "seconds": 0.0}
RATES = {torch.float32: 100.0, torch.bfloat16: 500.0, torch.int8: 1000.0}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is spent; products of the scorer's shapes go at `RATES`.

    The large square goes at half of them, copies at 10 bytes per second.
    """
    now = {"seconds": 0.0}

    def spend(seconds: float) -> None:
        now["seconds"] += seconds

    def products(shape: Shape, device, dtype) -> dict[str, Callable[[], None]]:
        share = 0.5 if shape == Shape(SIDE, SIDE, SIDE) else 1.0
        return {"only": lambda: spend(shape.flops / (share * RATES[dtype]))}

    monkeypatch.setattr(ceiling, "SIDE", {"cpu": SIDE})
    monkeypatch.setattr(ceiling, "_products", products)
    monkeypatch.setattr(ceiling, "_copies", lambda device: {"copy": (100, lambda: spend(10.0))})
    monkeypatch.setattr(measure, "CLOCKS", {"wall": lambda: now["seconds"]})
    return spend


def lane(name: str, dtype: torch.dtype, spend, seconds: Iterable[float]) -> Entry:
    """Of 2,000 operations for 2 pairs; it takes these seconds, in turn."""
    taken = itertools.cycle(seconds)

    def call() -> torch.Tensor:
        spend(next(taken))
        return torch.zeros(SIDE, SIDE) @ torch.zeros(SIDE, SIDE)

    return Entry(name, "scorer", 1, 2, call, lambda: 2, dtype)


def test_every_row_has_its_share_of_the_ceiling_of_its_own_format(clock):
    entries = [
        lane("float", torch.float32, clock, [40.0]),  # 50 operations a second of 100
        lane("bf16", torch.bfloat16, clock, [10.0]),  # 200 of 500
        lane("int8", torch.int8, clock, [4.0]),  # 500 of 1000, more than bf16 has at all
    ]
    rows = timed_rows(Benchmark(**SIZES), entries, CPU)
    assert [row.share_of_ceiling for row in rows] == pytest.approx([0.5, 0.4, 0.5])
    ceilings = [row.ceiling_tflops_per_second * 1e12 for row in rows]
    assert ceilings == pytest.approx([100.0, 500.0, 1000.0])


def test_a_disturbance_of_the_products_makes_no_share_exceed_one(clock):
    """The machine is slow while the products have their turn: a row is faster than all of them."""
    entries = [
        lane("ours", torch.float32, clock, [16.0, 10.0, 16.0]),  # 125, once 200 per second
        lane("other", torch.float32, clock, [100.0]),
    ]
    first, second = timed_rows(Benchmark(**SIZES), entries, CPU)
    assert first.ceiling_tflops_per_second == second.ceiling_tflops_per_second
    assert first.ceiling_tflops_per_second == pytest.approx(200e-12)
    assert (first.share_of_ceiling, second.share_of_ceiling) == pytest.approx((0.625, 0.1))


@pytest.mark.parametrize("seed", range(20))
def test_no_share_exceeds_one_whatever_takes_how_long(seed, clock):
    drawn = torch.rand(7, generator=torch.Generator().manual_seed(seed)) ** 4 * 50
    entries = [
        lane("ours", torch.bfloat16, clock, drawn[:5].tolist()),
        lane("int8", torch.int8, clock, drawn[2:].tolist()),
        lane("stopped", torch.float32, clock, [0.0]),  # a clock that is too coarse
    ]
    assert all(
        0 < row.share_of_ceiling <= 1 for row in timed_rows(Benchmark(**SIZES), entries, CPU)
    )


def test_a_ceiling_is_the_fastest_run_and_not_the_usual_one(clock, monkeypatch):
    seconds = iter([10.0, 5.0, 20.0])
    monkeypatch.setattr(ceiling, "_products", lambda *_: {"only": lambda: clock(next(seconds))})
    ceilings = Ceilings(CPU, [torch.float32], clock=measure.CLOCKS["wall"])
    for _ in range(3):
        ceilings()
    assert ceilings[torch.float32] == Ceiling(2000 / 5, 100 / 10, 100 / 10)


def test_a_call_that_did_more_raises_what_it_did_more_of():
    known = Ceiling(100.0, 10.0, 5.0)
    assert known.at_least(50.0, 4.0, 1.0) == known
    assert known.at_least(200.0, 30.0, 6.0) == Ceiling(200.0, 15.0, 6.0)


def test_what_is_timed_multiplies_matrices_of_the_shapes():
    """Products in every format that this machine has, by torch and by the scorer."""
    shape = Shape(6, 32, 16)
    for dtype in (torch.float32, torch.bfloat16):
        for call in ceiling._products(shape, CPU, dtype).values():
            assert call().shape == (6, 16) and call().dtype == dtype
    assert shape.flops == 2 * 6 * 32 * 16
