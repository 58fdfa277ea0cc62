"""Questions to an index and its answers: every hit of both stages, and each stage's time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.errors import EdjeError
from edje.index.hits import NEAR_DUPLICATE, Hit, cosines, grouped
from edje.inference.given_numbers import Numbers
from edje.ranges import check_count, check_probability

CANDIDATES = 100  # of the first stage, by default
Missing = Literal["error", "skip"]  # what becomes of ids that are not in the index


class UnknownPicture(EdjeError):
    """Raised for ids that no picture of the index has."""

    def __init__(self, message: str, ids: Sequence[str]):
        super().__init__(message)
        self.ids = list(ids)

    def __reduce__(self) -> tuple[type, tuple[str, list[str]]]:
        return type(self), (str(self), self.ids)


@dataclass(frozen=True)
class Question:
    """A text, and the pictures to rerank: the first stage's `k` best, or those of `ids`.

    `where`, `query_embedding`, `first_stage` (scores of the ids) and `missing` are as in
    `ImageIndex`. With `num_tokens`, only the first of nested visual tokens are read.
    """

    query: str
    k: int = CANDIDATES
    where: str | None = None
    query_embedding: Numbers | None = None
    ids: Sequence[str] | None = None
    first_stage: Numbers | None = None
    num_tokens: int | None = None
    missing: Missing = "error"


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of each stage, for all questions that were answered together."""

    text: float = 0.0
    first_stage: float = 0.0
    reading: float = 0.0
    scoring: float = 0.0


@dataclass(frozen=True, eq=False)
class Answer:
    """All pictures that were reranked for a question, best first, with their tokens."""

    hits: list[Hit]
    tokens: Float[Tensor, "hits tokens width"]
    seconds: StageSeconds = field(default_factory=StageSeconds)

    def best(
        self,
        top: int | None = None,
        group_duplicates: bool | float = False,
        min_probability: float | None = None,
    ) -> list[Hit]:
        """The `top` best, as `ImageIndex.search` gives them.

        Raises:
            EdjeError: a probability is requested, but the reranker has no calibration; or `top`,
                `group_duplicates` or `min_probability` is out of its range.
        """
        rows = list(range(len(self.hits)))
        if min_probability is not None:
            check_probability("min_probability", min_probability)
            rows = [row for row in rows if _probability(self.hits[row], min_probability)]
        return self._shown(rows, top, group_duplicates)

    def first_stage(
        self, top: int | None = None, group_duplicates: bool | float = False
    ) -> list[Hit]:
        """The `top` best of the first stage, in its order."""
        rows = sorted(range(len(self.hits)), key=lambda row: self.hits[row].rank)
        return self._shown(rows, top, group_duplicates)

    def _shown(self, rows: list[int], top: int | None, group_duplicates: bool | float) -> list[Hit]:
        if top is not None:
            check_count("top", top, 1)
        hits = [self.hits[row] for row in rows]
        least = _least_cosine(group_duplicates)
        if least is None:
            return hits[:top]
        order = torch.tensor(rows, dtype=torch.long)
        cosine = self._cosines[order][:, order]
        return grouped(hits, cosine, len(hits) if top is None else top, least)

    @cached_property
    def _cosines(self) -> Float[Tensor, "hits hits"]:
        """Computed once for the lists of both stages."""
        return cosines(self.tokens)


def _least_cosine(group_duplicates: bool | float) -> float | None:
    """Of near duplicates, if they are grouped."""
    if isinstance(group_duplicates, bool | np.bool_):
        return NEAR_DUPLICATE if group_duplicates else None
    if not isinstance(group_duplicates, Real) or not 0 < group_duplicates <= 1:
        raise EdjeError(
            f"group_duplicates={group_duplicates!r}: expected True, False, or the least cosine of "
            f"near duplicates, above 0 and at most 1. True is {NEAR_DUPLICATE}."
        )
    return float(group_duplicates)


def _probability(hit: Hit, least: float) -> bool:
    if hit.probability is None:
        raise EdjeError(
            f"min_probability={least}: this reranker has no calibration, as it was trained without "
            "dev images (data.dev_images > 0). Leave it out."
        )
    return hit.probability >= least
