"""What stands beside a figure: its ceiling by counted work, its goal, another lane."""

import time

import pytest
import torch

from edje.benchmark.ceiling import Ceiling
from experiments.speed.gpu_figures import Lane, Work, as_rows, as_table, in_turns, of_a_run

CPU = torch.device("cpu")
CEILING = Ceiling(flops_per_second=100.0, copied_bytes_per_second=10.0, sent_bytes_per_second=5.0)


def test_the_least_time_is_that_of_what_limits_a_part():
    assert Work(flops=200.0).least_seconds(CEILING) == 2.0
    assert Work(read_bytes=200.0).least_seconds(CEILING) == 10.0  # read, and nothing written
    assert Work(sent_bytes=200.0).least_seconds(CEILING) == 40.0
    assert Work(200.0, 200.0, 200.0).least_seconds(CEILING) == 40.0  # at the same time


def test_parts_come_one_after_another_and_the_median_run_counts():
    """Ceiling: 2 + 3 s for 10 pairs; the median of 8, 10 and 12 s is 10."""
    lane = Lane(lambda: None, 10, "pairs/s", [Work(200.0), Work(300.0)], torch.float32, goal=0.9)
    figure = of_a_run("a run", lane, [12.0, 8.0, 10.0], {torch.float32: CEILING})
    assert (figure.value, figure.slowest, figure.runs) == (1.0, 10 / 12, 3)
    assert (figure.ceiling, figure.share, figure.is_met) == (2.0, 0.5, True)


@pytest.mark.parametrize(("goal", "met"), [(3000.0, True), (1000.0, False), (None, None)])
def test_a_latency_meets_its_goal_from_below(goal, met):
    lane = Lane(lambda: None, 10, "ms", [Work(100.0)], torch.float32, goal=goal)
    figure = of_a_run("a query", lane, [2.0], {torch.float32: CEILING})
    assert (figure.value, figure.ceiling, figure.share) == (2000.0, 1000.0, 0.5)
    assert figure.is_met is met and as_rows([figure])[0]["is_met"] is met


def test_lanes_and_the_ceilings_of_their_formats_take_turns(monkeypatch):
    """One lane is told to take four times as long for twice the pairs: half as fast."""
    monkeypatch.setattr("edje.benchmark.ceiling.SIDE", {"cpu": 16})
    monkeypatch.setattr("edje.benchmark.ceiling.COPIED_BYTES", {"cpu": 64})
    lanes = {
        "fast": Lane(lambda: time.sleep(0.01), 1, "pairs/s", [Work(1.0)], torch.float32),
        "slow": Lane(
            lambda: time.sleep(0.04), 2, "pairs/s", [Work(2.0)], torch.bfloat16, beside="fast"
        ),
    }
    (fast, slow), ceilings = in_turns(lanes, CPU, 0.01, 3)
    assert set(ceilings) == {torch.float32, torch.bfloat16}
    assert fast.times_as_fast is None and slow.times_as_fast is not None
    assert slow.times_as_fast == pytest.approx(slow.value / fast.value)
    assert slow.value <= 2 / 0.04 and fast.value <= 1 / 0.01 and slow.dtype == "bfloat16"
    for figure, lane in zip((fast, slow), lanes.values(), strict=True):
        least = lane.parts[0].flops / ceilings[lane.dtype].flops_per_second
        assert figure.ceiling == lane.units / least
        assert figure.share == pytest.approx(figure.value / figure.ceiling)
    assert as_table([fast, slow], "title").row_count == 2


def test_a_run_that_is_faster_than_what_was_measured_before_raises_its_ceiling():
    """It did 200 operations a second where the ceiling says 100: the median is 2/4 of its best."""
    lane = Lane(lambda: None, 10, "pairs/s", [Work(200.0)], torch.float32)
    figure = of_a_run("a run", lane, [1.0, 2.0, 3.0], {torch.float32: CEILING})
    assert (figure.value, figure.ceiling, figure.share) == (5.0, 10.0, 0.5)
