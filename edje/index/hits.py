"""The results of a search: hits, with near duplicates grouped."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.retrieval.exact import similarities

ROUNDING = 1e-5  # of a cosine: that of equal tokens is not exactly 1
CONTROLS = ("Cc", "Zl", "Zp")  # categories of Unicode
NEAR_DUPLICATE = 0.8  # least cosine of all tokens of two pictures; measured: experiments/search


@dataclass(frozen=True)
class Hit:
    """A picture found by a search, with its scores.

    `score` is the reranker's; `probability` is that of the picture being right (None if the
    reranker has no calibration); `first_stage` and `rank` are the score and place (from 1) in the
    first stage, but after `ImageIndex.rerank` the place among the given ids. `duplicates` are the
    ids of near duplicates grouped under this hit. `path` is None if the picture was no file.
    `width` and `height` are its pixels, upright. `columns` are the values of your own columns,
    None where it has none.
    """

    id: str
    path: str | None
    score: float
    probability: float | None
    first_stage: float
    rank: int
    duplicates: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        """A line: probability or score, id, and how many near duplicates it has."""
        sure = f"{self.score:8.3f}" if self.probability is None else f"{self.probability:8.1%}"
        count = len(self.duplicates)
        more = f"  (+{count} near duplicate{'s' if count > 1 else ''})" if count else ""
        return f"{sure}  {on_one_line(self.id)}{more}"


def on_one_line(name: str) -> str:
    """A name for a terminal: control characters and line breaks are escaped."""
    return "".join(
        one.encode("unicode_escape").decode() if unicodedata.category(one) in CONTROLS else one
        for one in name
    )


def cosines(tokens: Float[Tensor, "hits tokens width"]) -> Float[Tensor, "hits hits"]:
    """Of the tokens of each two pictures, each concatenated to one vector."""
    vectors = torch.nn.functional.normalize(tokens.float().flatten(1), dim=1)
    return similarities(vectors, vectors)


def grouped(
    hits: Sequence[Hit], cosine: Float[Tensor, "hits hits"], top: int, least: float
) -> list[Hit]:
    """The `top` best distinct hits, each with the near duplicates that come after it.

    A hit is a near duplicate of the best hit with which its `cosine` is at least `least`, and
    which isn't a near duplicate itself.
    """
    close = (cosine >= least - ROUNDING).cpu().numpy()
    is_left = np.ones(len(hits), dtype=bool)
    found: list[Hit] = []
    for row, hit in enumerate(hits):
        if len(found) == top:
            break
        if is_left[row]:
            is_left[row] = False
            alike = np.flatnonzero(close[row] & is_left)
            is_left[alike] = False
            found.append(replace(hit, duplicates=tuple(hits[one].id for one in alike.tolist())))
    return found
