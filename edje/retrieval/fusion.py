"""Fusion of both stages: a weighted sum of standardised scores, its weight chosen on dev."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from edje.retrieval.metrics import first_hit_ranks
from edje.retrieval.rerank import RerankedList

WEIGHTS = tuple(step / 20 for step in range(21))
SPREAD = 3.0  # standard errors within which two weights count as equal; more than the usual two,
# because the captions of one image share their luck, and the best of many weights is compared


@dataclass(frozen=True)
class Standardiser:
    """A fixed mean and deviation: a pair's standardised score never depends on its pool."""

    mean: float
    std: float

    @classmethod
    def fit(cls, scores: Float[Tensor, "..."]) -> "Standardiser":
        """Mean and deviation of `scores`; the deviation of constant scores counts as 1."""
        scores = scores.double()
        std = scores.std(correction=0).item()
        return cls(scores.mean().item(), std if std > 0 else 1.0)

    def __call__(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Scores in deviations from the mean, in float64 so that no two scores are merged."""
        return (scores.double() - self.mean) / self.std


@dataclass(frozen=True)
class SumFusion:
    """final = (1 - weight) · z(first stage) + weight · z(joint), for one direction.

    Plain numbers throughout: `dataclasses.asdict` of it is what a checkpoint keeps.
    """

    weight: float
    first: Standardiser
    joint: Standardiser

    def __call__(self, reranked: RerankedList) -> RerankedList:
        """The same lists with the fused score as the final one."""
        first = self.first(reranked.first.scores)
        final = (1 - self.weight) * first + self.weight * self.joint(reranked.joint)
        return replace(reranked, final=final)


def fit_sum(dev: RerankedList, weights: Sequence[float] = WEIGHTS) -> SumFusion:
    """The fusion for one direction, all of it (means, deviations, weight) from dev lists."""
    first, joint = Standardiser.fit(dev.first.scores), Standardiser.fit(dev.joint)
    return SumFusion(fit_sum_weight(dev, first, joint, weights), first, joint)


def fit_sum_weight(
    dev: RerankedList,
    first: Standardiser,
    joint: Standardiser,
    weights: Sequence[float] = WEIGHTS,
) -> float:
    """The smallest weight in [0, 1] that dev can't tell from the one of best recall@1.

    That is, whose recall@1 is below the best one by at most `SPREAD` standard errors of their
    paired difference over queries (after the one-standard-error rule of Breiman et al., 1984). A
    weight of 0 is the first stage itself: the joint score gets a say only where dev shows a gain
    beyond chance, so that a reranker that learned nothing does no harm on other data.
    """
    grid = sorted(weights)
    hits = torch.stack(
        [
            first_hit_ranks(SumFusion(weight, first, joint)(dev).final, dev.first.relevant) == 1
            for weight in grid
        ]
    ).double()  # (weights, queries)
    lost = hits[hits.mean(dim=1).argmax()] - hits
    error = lost.std(dim=1, correction=0) / lost.shape[1] ** 0.5
    return grid[int((lost.mean(dim=1) <= SPREAD * error).int().argmax())]
