"""Measures of one ranked list by graded relevance, as ir-measures names and defines them."""

import re
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from edje.errors import EdjeError

Gains = Float[np.ndarray, "_"]  # grades, best place first; 0 for what isn't relevant
NAMED = re.compile(r"(?:(Success|R|P)(?=@)|(AP|RR|nDCG))(?:@([1-9]\d*))?")


def measure_named(name: str) -> Callable[[Gains, Gains], float]:
    """The function of a measure: Success@k, R@k, P@k, AP, RR or nDCG, these also with a cutoff.

    It takes the grades of a list in its order, and all grades above 0 of the query in descending
    order, at least one. It gives a value from 0 to 1. What the list lacks counts as not found.

    >>> measure_named("AP@2")(np.array([0.0, 2.0, 1.0]), np.array([2.0, 1.0]))
    0.25

    Raises:
        EdjeError: there is no such measure.
    """
    match = NAMED.fullmatch(name)
    if match is None:
        raise EdjeError(
            f"measures: got {name!r}, expected Success@k, R@k, P@k, AP, RR or nDCG, the last three "
            "with or without a cutoff, such as nDCG@10."
        )
    measure, k = KINDS[match[1] or match[2]], int(match[3]) if match[3] else None
    return lambda gains, ideal: measure(gains[:k], ideal, k)


def _success(gains: Gains, ideal: Gains, k: int | None) -> float:
    return float((gains > 0).any())


def _recall(gains: Gains, ideal: Gains, k: int | None) -> float:
    return int((gains > 0).sum()) / len(ideal)


def _precision(gains: Gains, ideal: Gains, k: int | None) -> float:
    assert k is not None
    return int((gains > 0).sum()) / k


def _average_precision(gains: Gains, ideal: Gains, k: int | None) -> float:
    ranks = np.flatnonzero(gains > 0) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum()) / len(ideal)


def _reciprocal_rank(gains: Gains, ideal: Gains, k: int | None) -> float:
    ranks = np.flatnonzero(gains > 0) + 1
    return 1 / int(ranks[0]) if len(ranks) else 0.0


def _ndcg(gains: Gains, ideal: Gains, k: int | None) -> float:
    """Järvelin and Kekäläinen's (2002) with linear gain: trec_eval's ndcg and ndcg_cut."""
    return _dcg(gains) / _dcg(ideal[:k])


def _dcg(gains: Gains) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


KINDS: dict[str, Callable[[Gains, Gains, int | None], float]] = {
    "Success": _success,
    "R": _recall,
    "P": _precision,
    "AP": _average_precision,
    "RR": _reciprocal_rank,
    "nDCG": _ndcg,
}
