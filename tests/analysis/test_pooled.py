"""Claims about intervals and tests over images and runs."""

import numpy as np
import pytest
import torch
from scipy import stats

from edje.analysis.comparison import holm
from edje.analysis.pooled import (
    Pooled,
    paired_difference,
    pooled_difference,
    pooled_recall,
    sign_test,
)


def columns(*runs: list[float]) -> torch.Tensor:
    return torch.tensor(runs, dtype=torch.double).T


def test_one_runs_interval_is_students_over_images() -> None:
    values = np.random.default_rng(0).normal(50, 10, 40)
    found = pooled_recall(columns(values.tolist()), torch.arange(40))
    right = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), *right))
    tested = paired_difference(
        columns(values.tolist()), torch.full((40, 1), 47.0), torch.arange(40)
    )
    assert tested.p == pytest.approx(stats.ttest_1samp(values, 47).pvalue)


def test_queries_of_one_image_count_together() -> None:
    """Repeating each query adds nothing, and images weigh by their queries."""
    hits = torch.tensor([100.0, 0, 0, 100, 100, 0, 100, 100]).double()[:, None]
    once = pooled_recall(hits, torch.arange(8))
    assert pooled_recall(hits.repeat(3, 1), torch.arange(8).repeat(3)) == once
    # one image with a query that is right, and one with nine that are wrong
    uneven = pooled_recall(torch.tensor([[100.0]] + [[0.0]] * 9), torch.tensor([7] + [3] * 9))
    assert uneven.value == pytest.approx(10)
    assert (uneven.low, uneven.high) == (0, 100)
    # sums 10, 10 and 0 of 1, 1 and 8 queries: residuals 8, 8 and -16, times 3/2 / 10²
    three = pooled_recall(torch.tensor([[10.0]] * 2 + [[0.0]] * 8), torch.tensor([0, 1] + [2] * 8))
    half = stats.t.ppf(0.975, 2) * (1.5 * (8**2 + 8**2 + 16**2)) ** 0.5 / 10
    assert (three.value, three.high) == (2, pytest.approx(2 + half))


def test_runs_alone_give_students_interval_of_their_recall() -> None:
    recall = [40.0, 50, 60]
    found = pooled_recall(columns(*([one] * 50 for one in recall)), torch.arange(50))
    right = stats.ttest_1samp(recall, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((50, *right))
    a, b = ([[one] * 50 for one in side] for side in ((40.0, 50, 60), (45.0, 47)))
    difference = pooled_difference(columns(*a), columns(*b), torch.arange(50))
    welch = stats.ttest_ind(recall, (45, 47), equal_var=False)
    ends = welch.confidence_interval()
    found = (difference.value, difference.low, difference.high, difference.p)
    assert found == pytest.approx((4, *ends, welch.pvalue))


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_variances_over_images_and_runs_are_added_less_their_interaction(runs: int) -> None:
    """One query an image: the mean squares of the classical analysis of variance of two ways."""
    draws, images = np.random.default_rng(1), 6
    hits = 50 + 2 * draws.normal(size=(images, 1)) + draws.normal(0, 2, (images, runs))
    hits += 2 * np.arange(runs)
    of_image, of_run = hits.mean(axis=1, keepdims=True), hits.mean(axis=0, keepdims=True)
    rest = hits - of_image - of_run + hits.mean()
    over_images = runs * of_image.var(ddof=1) / hits.size
    over_runs = images * of_run.var(ddof=1) / hits.size
    both = (rest**2).sum() / ((images - 1) * (runs - 1)) / hits.size
    variance = over_images + over_runs - both
    assert variance > max(over_images, over_runs) and both > 0.02 * variance
    freedom = variance**2 / (over_images**2 / (images - 1) + over_runs**2 / (runs - 1))
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    found = pooled_recall(torch.from_numpy(hits), torch.arange(images))
    ends = (hits.mean() - half, hits.mean() + half)
    assert (found.value, found.low, found.high) == pytest.approx((hits.mean(), *ends))


def test_runs_of_the_same_seed_differ_by_what_they_do_not_share() -> None:
    a = columns([10.0] * 20, [80.0] * 20, [45.0] * 20)
    found = paired_difference(a, a - 5, torch.arange(20))
    assert found == Pooled(5, 5, 5, pytest.approx(2**-19))
    apart = pooled_difference(a, a - 5, torch.arange(20))
    assert apart.low < -50 and apart.high > 60


def test_equal_runs_differ_by_nothing_and_recall_stays_within_its_range() -> None:
    hits = columns([100.0, 0, 100, 0], [100.0, 100, 0, 0])
    assert paired_difference(hits, hits, torch.arange(4)) == Pooled(0, 0, 0, 1)
    all_right = torch.full((100, 2), 100.0)
    uneven = torch.cat([torch.arange(10), torch.full((90,), 3)])
    assert pooled_recall(all_right, uneven) == Pooled(100, 100, 100, 2.0**-9)
    nearly = all_right.clone()
    nearly[0] = 0
    assert pooled_recall(nearly, torch.arange(100)).high == 100


def test_few_differing_images_show_little() -> None:
    """Four queries of 500 that one run alone has right: 2 of 16 signs are as extreme."""
    a = torch.zeros(500, 1)
    a[:4] = 100
    assert pooled_difference(a, torch.zeros(500, 1), torch.arange(500)).p == 0.125
    assert sign_test(np.array([1.0, -1, 1, 0])) == 1
    assert sign_test(np.zeros(5)) == 1
    assert sign_test(np.array([3.0, 1, 1])) == 0.25  # ±5 among 8 sums
    assert sign_test(np.array([3.0, 1, -1])) == 0.75  # 3, 3 and 5, and their negatives


@pytest.mark.parametrize(
    ("runs", "of_runs", "shared", "fewest", "most"),
    [(1, 0.0, 20.0, 0.03, 0.07), (2, 3.0, 20.0, 0.015, 0.065), (2, 6.0, 1.0, 0.01, 0.06),
     (3, 3.0, 20.0, 0.015, 0.065), (3, 6.0, 1.0, 0.02, 0.065), (5, 0.0, 40.0, 0.005, 0.05)],
)  # fmt: skip
def test_equal_choices_are_called_different_about_as_rarely_as_stated(
    runs: int, of_runs: float, shared: float, fewest: float, most: float
) -> None:
    """600 comparisons of equal choices, by the deviations of runs, and of images in a run.

    A comparison at 5% may be cautious, but must not err more often. Seen in 3,000: 5.4, 4.2, 1.7,
    2.9, 3.4 and 2.0%.
    """
    draws = torch.Generator().manual_seed(0)
    images, wrong, held = 200, 0, 0
    for _ in range(600):
        common = 20 * torch.randn(images, 1, generator=draws, dtype=torch.double)
        a, b = (
            common
            + of_runs * torch.randn(1, runs, generator=draws, dtype=torch.double)
            + shared * torch.randn(images, runs, generator=draws, dtype=torch.double)
            for _ in range(2)
        )
        found = pooled_difference(a, b, torch.arange(images))
        wrong += found.p <= 0.05
        held += found.low <= 0 <= found.high
    assert fewest <= wrong / 600 <= most
    assert held + wrong == 600


def test_a_family_of_equal_choices_errs_about_as_rarely_as_stated() -> None:
    """300 families of four equal choices of one run: six pairs, two captions an image."""
    families, choices, images, captions = 300, 4, 100, 2
    draws = np.random.default_rng(0)
    of_image = torch.arange(images).repeat_interleave(captions)
    errors, uncorrected = 0, 0
    for _ in range(families):
        hard = draws.uniform(0.2, 0.9, (images, 1, 1))  # shared by the choices
        hits = 100.0 * (draws.random((images, captions, choices)) < hard)
        runs = torch.from_numpy(hits.reshape(-1, choices)).split(1, dim=1)
        p = np.array([
            pooled_difference(runs[a], runs[b], of_image).p
            for a in range(choices) for b in range(a)
        ])  # fmt: skip
        errors += holm(p).min() <= 0.05
        uncorrected += p.min() <= 0.05
    assert 0.01 < errors / families < 0.07
    assert uncorrected / families > 0.14
