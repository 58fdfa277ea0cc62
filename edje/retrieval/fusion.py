"""Fusion of both stages: a weighted sum of standardised scores, with a weight chosen on dev."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from edje.records import Direction
from edje.retrieval.metrics import first_hit_ranks
from edje.retrieval.rerank import RerankedList

WEIGHTS = tuple(step / 20 for step in range(21))
# Standard errors that a weight must gain on dev. For text to image it is more than the usual two,
# because the captions of one image are not independent.
SPREAD: dict[Direction, float] = {"t2i": 3.0, "i2t": 2.0}


@dataclass(frozen=True)
class Standardiser:
    """A fixed mean and deviation, so a pair's standardised score never depends on its pool."""

    mean: float
    std: float

    @classmethod
    def fit(cls, scores: Float[Tensor, "..."]) -> "Standardiser":
        """Mean and deviation of `scores`; for constant scores the deviation is 1."""
        scores = scores.double()
        std = scores.std(correction=0).item()
        return cls(scores.mean().item(), std if std > 0 else 1.0)

    def __call__(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standardised scores, in float64 so that distinct scores stay distinct."""
        return (scores.double() - self.mean) / self.std


@dataclass(frozen=True)
class SumFusion:
    """final = (1 - weight) · z(first stage) + weight · z(joint), for one direction.

    Plain numbers throughout; a checkpoint keeps its `dataclasses.asdict`.
    """

    weight: float
    first: Standardiser
    joint: Standardiser

    def __call__(self, reranked: RerankedList) -> RerankedList:
        """The same lists with the fused score as the final one."""
        return replace(reranked, final=self.of(reranked.first.scores, reranked.joint))

    def of(self, first: Float[Tensor, "..."], joint: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The fused score of each pair, in float64."""
        return (1 - self.weight) * self.first(first) + self.weight * self.joint(joint)


def fit_sum(dev: RerankedList, before: float = 0.0) -> SumFusion:
    """The fusion for one direction, with means, deviations and weight from dev lists.

    `before` is as in `fit_sum_weight`.
    """
    first, joint = Standardiser.fit(dev.first.scores), Standardiser.fit(dev.joint)
    return SumFusion(fit_sum_weight(dev, first, joint, before=before), first, joint)


def fit_sum_weight(
    dev: RerankedList,
    first: Standardiser,
    joint: Standardiser,
    weights: Sequence[float] = WEIGHTS,
    before: float = 0.0,
) -> float:
    """The weight in [0, 1] with the best mean reciprocal rank on dev; `before` if that is chance.

    The mean reciprocal rank depends on every place of every list, recall@1 only on the first
    place, so its maximum depends less on chance. The weight must gain `SPREAD` standard errors of
    the paired difference over the first stage alone (weight 0). So a reranker that learned
    nothing does no harm on other data. `before` is the weight of the reranker that it was before
    this training, known by other images: it is kept unless it loses as much as others must gain.
    """

    def reciprocal(weight: float) -> Float[Tensor, "queries"]:  # 0 without a hit
        final = SumFusion(weight, first, joint)(dev).final
        return 1 / first_hit_ranks(final, dev.first.relevant)

    def beyond_chance(gain: Float[Tensor, "queries"]) -> bool:
        error = gain.std(correction=0) / len(gain) ** 0.5
        return bool(gain.mean() > SPREAD[dev.first.direction] * error)

    alone = reciprocal(0.0)
    of_weights = {weight: reciprocal(weight) for weight in sorted({0.0, *weights})}
    best = max(of_weights, key=lambda weight: of_weights[weight].mean().item())
    if beyond_chance(of_weights[best] - alone):
        return best
    return 0.0 if beyond_chance(alone - reciprocal(before)) else before
