"""Claims about the order in which a mixture is visited."""

from collections import Counter

import numpy as np
import pytest

from edje.data.mixture.order import Block, MixtureOrder
from edje.data.mixture.streamed_pairs import StreamSampler


def blocks(*sizes: int, passes: float = 1.0) -> list[Block]:
    starts = np.cumsum([0, *sizes])
    return [Block(int(at), size, passes) for at, size in zip(starts, sizes, strict=False)]


def test_a_pass_visits_every_row_once_and_the_next_in_another_order() -> None:
    order = MixtureOrder(blocks(7, 100, 30, 64, 1), window=2, seed=0)
    first, second = (order.at(number, 0, order.rows).tolist() for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(202))
    assert first != second


def test_any_part_of_a_pass_is_found_without_what_was_before() -> None:
    sizes = (7, 100, 30, 64, 1)
    whole = MixtureOrder(blocks(*sizes), window=2, seed=3).at(2, 0, 202)
    for start in range(0, 189, 13):
        fresh = MixtureOrder(blocks(*sizes), window=2, seed=3)
        assert fresh.at(2, start, 13).tolist() == whole[start : start + 13].tolist()


def test_reading_stays_within_a_window_and_neighbours_are_far_apart() -> None:
    order = MixtureOrder(blocks(*[100] * 12), window=3, seed=0)
    rows = order.at(0, 0, 1200)
    for start in range(0, 1200, 300):
        assert len(set(rows[start : start + 300] // 100)) == 3
    assert np.mean(np.abs(np.diff(rows)) == 1) < 0.05


def test_passes_say_how_often_a_source_is_visited() -> None:
    sources = [*blocks(40, passes=2.5), Block(40, 40, 0.25), Block(80, 40, 0.0)]
    order = MixtureOrder(sources, window=4, seed=0)
    visits = Counter(order.at(0, 0, order.rows).tolist())
    assert order.rows == 100 + 10
    assert Counter(visits[row] for row in range(40)) == {2: 20, 3: 20}
    assert Counter(visits[row] for row in range(40, 80)) == {1: 10, 0: 30}
    assert not any(visits[row] for row in range(80, 120))
    again = Counter(order.at(1, 0, order.rows).tolist())
    assert {row for row in range(40, 80) if visits[row]} != {
        row for row in range(40, 80) if again[row]
    }


def test_rows_that_are_left_out_are_never_visited_nor_drawn() -> None:
    order = MixtureOrder([Block(0, 5, 2.0, without=(1, 3)), Block(5, 2)], window=1, seed=0)
    assert order.rows == 8
    assert set(order.at(0, 0, 8).tolist()) == {0, 2, 4, 5, 6}
    draws = np.random.default_rng(0)
    assert {order.any_row(draws) for _ in range(200)} == {0, 2, 4, 5, 6}


@pytest.mark.parametrize("first", [0, 5, 17])
def test_two_ranks_share_the_batches_of_one_and_a_cut_run_goes_on(first: int) -> None:
    def batches(rank: int, ranks: int, count: int, first: int) -> list[tuple[int, list[int]]]:
        order = MixtureOrder(blocks(20, 9, 30), window=2, seed=1)
        sampler = StreamSampler(order, 4, count, first, rank, ranks)
        return [(place.position, place.rows.tolist()) for place in sampler]

    alone = batches(0, 1, 40, 0)
    assert batches(0, 1, 40, first) == alone[first:]
    assert batches(0, 2, 20, first // 2) == alone[first // 2 * 2 :: 2]
    assert batches(1, 2, 20, first // 2) == alone[first // 2 * 2 + 1 :: 2]
