import math

import pytest
import torch

from edje.errors import EdjeError
from edje.retrieval.intervals import (
    interval,
    interval_columns,
    paired_interval,
    resampled_means,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_the_value_is_the_plain_mean_over_queries(dtype):
    hits = torch.tensor([1, 0, 0, 1, 1], dtype=dtype)
    estimate = interval(hits, torch.tensor([0, 0, 1, 1, 1]))
    assert estimate.value == pytest.approx(0.6)
    assert estimate.low <= estimate.value <= estimate.high


def test_its_width_is_that_of_the_binomial_for_independent_queries():
    hits = (torch.arange(2000) % 4 == 0).double()
    estimate = interval(hits, torch.arange(2000))
    expected = 1.96 * math.sqrt(0.25 * 0.75 / 2000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(expected, rel=0.1)


def test_captions_of_one_image_are_drawn_together():
    """Five equal captions per image say no more than one: the interval must not shrink."""
    hits = (torch.arange(400) % 2).double()
    single = interval(hits, torch.arange(400))
    five = interval(hits.repeat_interleave(5), torch.arange(400).repeat_interleave(5))
    assert five == single
    naive = interval(hits.repeat_interleave(5), torch.arange(2000))
    assert naive.high - naive.low < 0.6 * (five.high - five.low)


def test_a_paired_gain_is_tighter_than_the_difference_of_its_sides():
    generator = torch.Generator().manual_seed(0)
    before = (torch.rand(500, generator=generator) < 0.5).double()
    after = before.clone()
    after[:30] = 1.0
    groups = torch.arange(500)
    gain = paired_interval(before, after, groups)
    assert gain.value == pytest.approx((after - before).mean().item())
    assert gain.low > 0
    assert gain == interval(after - before, groups, 0, resamples=1000)
    one, two = interval(before, groups), interval(after, groups)
    assert gain.high - gain.low < (two.high - two.low + one.high - one.low) / 2


def test_the_same_lists_have_no_gain():
    hits = torch.tensor([1.0, 0, 1])
    gain = paired_interval(hits, hits, torch.arange(3))
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_it_is_a_function_of_values_seed_and_grouping_but_not_of_labels():
    hits = torch.arange(60).double().sin()
    rows = torch.arange(60) // 3
    assert interval(hits, rows, 1) == interval(hits, rows, 1)
    assert interval(hits, rows, 1) == interval(hits, (7 * rows + 5) % 101, 1)
    assert interval(hits, rows, 1) != interval(hits, rows, 2)


def test_columns_share_resamples():
    hits = (torch.arange(60) % 3 == 0).double()
    both = interval_columns(torch.stack([hits, 100 * hits], dim=1), torch.arange(60))
    assert both[0] == interval(hits, torch.arange(60))
    assert both[1].low == pytest.approx(100 * both[0].low)


@pytest.mark.parametrize("resamples", [30, 100, 250])
def test_there_are_as_many_resamples_as_asked_for(resamples):
    means = resampled_means(torch.rand(8, 2), torch.arange(8), resamples=resamples)
    assert means.shape == (resamples, 2)


def test_one_image_gives_an_interval_without_width():
    estimate = interval(torch.tensor([1.0, 0.0]), torch.tensor([3, 3]))
    assert (estimate.low, estimate.high) == (0.5, 0.5)


def test_no_queries_is_an_error():
    with pytest.raises(ValueError, match="at least one query"):
        interval(torch.zeros(0), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("resamples", [0, -1])
def test_an_interval_of_no_resamples_is_refused(resamples):
    with pytest.raises(EdjeError, match=f"resamples={resamples}: expected a whole number of 1 or"):
        interval(torch.rand(3), torch.arange(3), resamples=resamples)
