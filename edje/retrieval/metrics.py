"""Ranks and recall: pure functions over a score matrix and a relevance matrix."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from edje.ranges import check_count


def first_hit_ranks(
    scores: Num[Tensor, "queries pool"], relevant: Bool[Tensor, "queries pool"]
) -> Float[Tensor, "queries"]:
    """Rank of each query's best relevant candidate, from 1; infinite if none is listed.

    The rank is 1 + the number of non-relevant candidates with a greater or equal score, so a
    constant score earns nothing. Nor does one that is not a number: a relevant candidate with it
    is behind all others, any other candidate ahead.

    >>> first_hit_ranks(torch.tensor([[0.3, 0.9, 0.3]]), torch.tensor([[True, False, False]]))
    tensor([3.])
    """
    scores = scores.double()
    best = scores.masked_fill(~relevant | scores.isnan(), -torch.inf).amax(dim=1, keepdim=True)
    ahead = (~relevant & ~(scores < best)).sum(dim=1)
    return (1.0 + ahead).masked_fill(~relevant.any(dim=1), torch.inf)


def hits_at_k(
    ranks: Float[Tensor, "queries"], ks: Sequence[int]
) -> Bool[Tensor, "queries cutoffs"]:
    """Whether each query's first hit is among its `k` best, one column per `k`.

    Raises:
        EdjeError: a `k` is not a whole number of at least 1.
    """
    for k in ks:
        check_count("k", k, 1)
    return ranks[:, None] <= torch.tensor(ks, device=ranks.device)


def recall_at_k(ranks: Float[Tensor, "queries"], ks: Sequence[int]) -> dict[int, float]:
    """Share of queries, in [0, 1], whose first hit is among the `k` best.

    If `k` exceeds the pool, this is the share of queries with a hit anywhere in the pool.
    """
    shares = hits_at_k(ranks, ks).double().mean(dim=0)
    return dict(zip(ks, shares.tolist(), strict=True))


def best_first(
    scores: Num[Tensor, "queries pool"], relevant: Bool[Tensor, "queries pool"]
) -> tuple[Num[Tensor, "queries pool"], Bool[Tensor, "queries pool"]]:
    """Both in descending order of scores; among equal scores the relevant ones come last.

    >>> best_first(torch.tensor([[1.0, 3.0, 3.0]]), torch.tensor([[False, True, False]]))
    (tensor([[3., 3., 1.]]), tensor([[False,  True, False]]))
    """
    by_relevance = relevant.long().argsort(dim=1, stable=True)
    scores, relevant = scores.gather(1, by_relevance), relevant.gather(1, by_relevance)
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    return scores.gather(1, by_score), relevant.gather(1, by_score)
