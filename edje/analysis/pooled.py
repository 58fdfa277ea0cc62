"""Recall over several runs, and differences of it: intervals and tests over images and runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

Hits = Float[Tensor, "queries runs"]  # in percent; 0 or 100 of a hit
EXACT_UP_TO = 12  # images whose signs are all tried


@dataclass(frozen=True)
class Pooled:
    """A recall or a difference in points, its 95% interval, and `p` of "it is zero"."""

    value: float
    low: float
    high: float
    p: float

    def named(self, name: str) -> dict[str, float]:
        """The value and its interval as a table's columns: `name`, `name.low`, `name.high`."""
        return {name: self.value, f"{name}.low": self.low, f"{name}.high": self.high}


def pooled_recall(hits: Hits, images: Int[Tensor, "queries"]) -> Pooled:
    """Mean recall of the runs of one choice, for other images and other runs of it.

    The variance is that over images (queries of one image count together) plus that over runs,
    less their interaction, which is in both: Cameron, Gelbach and Miller's for two-way clusters.
    The interval is Student's, whose degrees of freedom weigh the numbers of images and runs as
    Welch and Satterthwaite do. Of one run, it doesn't cover other runs.
    """
    return _contrast([hits], images, (0.0, 100.0))


def pooled_difference(a: Hits, b: Hits, images: Int[Tensor, "queries"]) -> Pooled:
    """Mean recall of one choice less that of another on the same images; see `pooled_recall`.

    `p` is two-sided, of Student's distribution, but never below that of a permutation test, which
    changes the signs of the images' differences: few differing images show little.
    """
    return _contrast([a, b], images, (-100.0, 100.0))


def paired_difference(a: Hits, b: Hits, images: Int[Tensor, "queries"]) -> Pooled:
    """The same if the runs are paired too: column by column, runs of the same seed."""
    return _contrast([a - b], images, (-100.0, 100.0))


def _contrast(
    sides: Sequence[Hits], images: Int[Tensor, "queries"], within: tuple[float, float]
) -> Pooled:
    """The mean of the first side, less that of the second if there is one."""
    images = images.unique(return_inverse=True)[1]
    counts = torch.bincount(images).double().numpy()
    sums = [_by_image(side, images) for side in sides]
    means = [side.mean(axis=1) for side in sums]
    of_images = means[0] if len(means) == 1 else means[0] - means[1]
    value = float(of_images.sum() / counts.sum())
    over_images = _variance(of_images - value * counts, counts)
    over_runs = [_over_runs(side, counts) for side in sums]
    each = [own for own, _ in over_runs]
    both = over_images + sum(each) - sum(shared for _, shared in over_runs)
    variance = max(both, over_images, sum(each))
    half, p = 0.0, float(value == 0)
    if variance > 0:
        freedom = variance**2 / (
            over_images**2 / max(len(counts) - 1, 1)
            + sum(own**2 / max(side.shape[1] - 1, 1) for own, side in zip(each, sums, strict=True))
        )
        half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
        p = 2 * float(stats.t.sf(abs(value) / variance**0.5, freedom))
    low, high = np.clip((value - half, value + half), *within).tolist()
    return Pooled(value, low, high, max(p, sign_test(of_images)))


def _by_image(hits: Hits, images: Int[Tensor, "queries"]) -> np.ndarray:
    """Sums over the queries of each image: (images, runs)."""
    sums = torch.zeros(int(images.max()) + 1, hits.shape[1], dtype=torch.double)
    return sums.index_add(0, images, hits.double()).numpy()


def _variance(residuals: np.ndarray, counts: np.ndarray) -> float:
    """Of a mean over queries, from what each image's sum differs from its expected one."""
    number = len(counts)
    return float((residuals**2).sum() / counts.sum() ** 2 * number / max(number - 1, 1))


def _over_runs(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Variance of the mean over runs, and the part of it that images and runs make together."""
    runs = sums.shape[1]
    if runs == 1:
        return 0.0, 0.0
    recall = sums.sum(axis=0) / counts.sum()
    residuals = sums - recall * counts[:, None]
    residuals -= residuals.mean(axis=1, keepdims=True)
    shared = _variance(residuals, counts) / (runs - 1) / runs
    return float(recall.var(ddof=1) / runs), shared


def sign_test(differences: np.ndarray) -> float:
    """The two-sided p of a permutation test by signs; for many differences, the least possible.

    >>> sign_test(np.array([1.0, 0.0, 2.0, 1.0]))
    0.25
    """
    different = differences[differences != 0]
    if not 0 < len(different) <= EXACT_UP_TO:
        return min(1.0, 2.0 ** (1 - len(different)))
    signs = np.array(list(product((-1, 1), repeat=len(different))))
    sums = np.abs(signs @ different)
    return float((sums >= np.abs(different.sum()) * (1 - 1e-9)).mean())
