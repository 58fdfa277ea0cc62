"""95% bootstrap intervals over images: the captions of one image are drawn together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from edje.ranges import check_count

RESAMPLES_AT_ONCE = 100  # bounds the memory: as many rows, with one weight per image


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with the ends of its 95% interval, all in the unit of the values."""

    value: float
    low: float
    high: float


def interval(
    values: Num[Tensor, "queries"],
    groups: Int[Tensor, "queries"],
    seed: int = 0,
    *,
    resamples: int = 1000,
) -> Estimate:
    """Mean of `values` with its cluster bootstrap interval (percentiles 2.5 and 97.5).

    Queries of equal `groups` (one image) are resampled together. The result depends only on the
    arguments; the groups' labels and the device don't matter.
    """
    return interval_columns(values[:, None], groups, seed, resamples=resamples)[0]


def paired_interval(
    before: Num[Tensor, "queries"],
    after: Num[Tensor, "queries"],
    groups: Int[Tensor, "queries"],
    seed: int = 0,
    *,
    resamples: int = 1000,
) -> Estimate:
    """Mean of `after - before` on the same queries, with its interval."""
    return interval(after.double() - before.double(), groups, seed, resamples=resamples)


def interval_columns(
    values: Num[Tensor, "queries columns"],
    groups: Int[Tensor, "queries"],
    seed: int = 0,
    *,
    resamples: int = 1000,
) -> list[Estimate]:
    """One estimate per column of `values`, all with the same resamples.

    Raises:
        ValueError: there are no queries.
    """
    means = resampled_means(values, groups, seed, resamples=resamples)
    quantiles = torch.tensor([0.025, 0.975], dtype=torch.double)
    low, high = means.quantile(quantiles, dim=0)
    mean = values.cpu().double().mean(dim=0)
    return [
        Estimate(*ends) for ends in zip(mean.tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def resampled_means(
    values: Num[Tensor, "queries columns"],
    groups: Int[Tensor, "queries"],
    seed: int = 0,
    *,
    resamples: int = 1000,
) -> Float[Tensor, "resamples columns"]:
    """Means of the columns of `values` over each resample of the groups, in float64.

    All columns share the resamples, so columns may be subtracted row by row.

    Raises:
        ValueError: there are no queries.
        EdjeError: `resamples` is not a whole number of at least 1.
    """
    check_count("resamples", resamples, 1)
    if len(values) == 0:
        raise ValueError("An interval needs at least one query: got none.")
    clusters = _by_first_appearance(groups.cpu())
    count = int(clusters.max()) + 1
    columns = values.cpu().double()
    columns = torch.cat([columns, columns.new_ones(len(columns), 1)], dim=1)
    sums = columns.new_zeros(count, columns.shape[1]).index_add(0, clusters, columns)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, resamples - start)
        drawn = torch.randint(count, (rows, count), generator=generator)
        weights = sums.new_zeros(rows, count).scatter_add_(1, drawn, sums.new_ones(rows, count))
        totals = weights @ sums  # (rows, columns + 1): the last column counts the queries drawn
        means.append(totals[:, :-1] / totals[:, -1:])
    return torch.cat(means)


def _by_first_appearance(groups: Int[Tensor, "queries"]) -> Int[Tensor, "queries"]:
    """Groups renumbered 0, 1, … in the order in which they first appear.

    So row numbers and image ids read from a file give the same resamples.
    """
    _, inverse = groups.unique(return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(groups), dtype=torch.long)
    first.scatter_reduce_(0, inverse, torch.arange(len(groups)), reduce="amin")
    return first.argsort().argsort()[inverse]
