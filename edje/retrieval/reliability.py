"""Whether probabilities are reliable: are 80% of the 80%-sure answers right?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

BINS = 10  # of equal width


@dataclass(frozen=True)
class ReliabilityBin:
    """Searches of similar probability: its mean, the share that is right, and their number."""

    probability: float
    right: float
    searches: int


def reliability(
    probability: Float[Tensor, "searches"], right: Bool[Tensor, "searches"], bins: int = BINS
) -> list[ReliabilityBin]:
    """The nonempty bins of equal width in [0, 1], in ascending order."""
    place = (probability * bins).long().clamp(max=bins - 1)
    found = []
    for number in place.unique():  # sorted
        some = place == number
        mean, share = probability[some].mean().item(), right[some].double().mean().item()
        found.append(ReliabilityBin(mean, share, int(some.sum())))
    return found


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: |probability − share that is right|, averaged over searches.

    >>> calibration_error([ReliabilityBin(0.2, 0.3, 30), ReliabilityBin(0.9, 0.9, 70)])
    0.03
    """
    return _mean(bins, [abs(one.probability - one.right) for one in bins])


def error_by_chance(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error of perfect probabilities, with as many searches.

    Among n searches of probability p, the share that is right deviates by √(2 p (1 − p) / (π n)).

    >>> error_by_chance([ReliabilityBin(0.5, 0.6, 100)])
    0.0399
    """
    deviations = [2 * one.probability * (1 - one.probability) / one.searches for one in bins]
    return _mean(bins, [math.sqrt(value / math.pi) for value in deviations])


def _mean(bins: Sequence[ReliabilityBin], values: Sequence[float]) -> float:
    """The mean over searches, to 4 digits."""
    total = sum(one.searches for one in bins)
    pairs = zip(bins, values, strict=True)
    return round(sum(one.searches * value for one, value in pairs) / total, 4)
