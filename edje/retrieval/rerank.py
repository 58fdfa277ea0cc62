"""The second stage: re-score every listed pair with a joint encoder, in flat batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from edje.errors import EdjeError
from edje.records import CandidateList, Direction


@runtime_checkable
class PairScorer(Protocol):
    """Scores pairs of a query and a candidate, both given by row; higher is a better match."""

    def __call__(
        self,
        direction: Direction,
        queries: Int[Tensor, "pairs"],
        candidates: Int[Tensor, "pairs"],
        first_stage: Float[Tensor, "pairs"],
    ) -> Float[Tensor, "pairs"]:
        """Scores of the pairs; a pair's score must not depend on its neighbours in the batch."""
        ...


PairKey = Callable[[Direction, Int[Tensor, "pairs"], Int[Tensor, "pairs"]], Num[Tensor, "pairs"]]


@dataclass(frozen=True)
class RerankedList:
    """The first stage's lists, in their order, with the joint encoder's and the final scores.

    `final` decides the ranking: the joint score itself, or its fusion with the first stage.
    """

    first: CandidateList
    joint: Float[Tensor, "queries pool"]
    final: Float[Tensor, "queries pool"]


@torch.no_grad()
def rerank(
    first: CandidateList,
    scorer: PairScorer,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    *,
    key: PairKey | None = None,
    rows: Int[Tensor, "queries"] | None = None,
) -> RerankedList:
    """Score every pair of `first`; its final score is the joint score.

    Args:
        batch_size: Pairs per call of the scorer.
        progress: Called after each batch with the number of pairs just scored.
        key: Pairs are scored in ascending order of this number and put back in order; with a text
            length, batches hold pairs of similar cost. By default they run query by query.
        rows: The scorer's rows of the lists' queries; by default 0, 1, 2, …

    Raises:
        EdjeError: a score is not finite (it would lose or win every comparison).
    """
    if rows is None:
        rows = torch.arange(len(first.candidates))
    queries = rows.to(first.candidates.device)[:, None].expand_as(first.candidates).reshape(-1)
    candidates = first.candidates.reshape(-1)
    scores = first.scores.reshape(-1)
    if key is None:
        order = torch.arange(len(candidates), device=candidates.device)
    else:
        order = key(first.direction, queries, candidates).argsort(stable=True).to(candidates.device)
    joint = torch.empty(len(candidates), dtype=torch.float32, device=candidates.device)
    scored = []  # on the scorer's device: fetching each batch would wait for a GPU
    for some in order.split(batch_size):
        scored.append(scorer(first.direction, queries[some], candidates[some], scores[some]))
        if progress is not None:
            progress(len(some))
    joint[order] = torch.cat(scored).to(joint)
    broken = int((~joint.isfinite()).sum())
    if broken:
        raise EdjeError(
            f"The joint encoder gave scores that are not finite for {broken} of {len(joint)} pairs "
            f"({first.direction}). Its training diverged, or its number format overflows: "
            "evaluate an earlier checkpoint, or in float32."
        )
    joint = joint.reshape(first.candidates.shape)
    return RerankedList(first, joint, joint)


def share_of_ties(
    scores: Num[Tensor, "queries pool"], kinds: Int[Tensor, "queries pool"] | None = None
) -> float:
    """Share of candidates, in [0, 1], whose score equals another's in the same list.

    It is near 0 in a healthy model; a coarse number format or a collapsed model raises it.
    Candidates of one kind with one score, such as captions with the same words, count as one.

    >>> share_of_ties(torch.tensor([[1.0, 2.0, 1.0, 3.0]]))
    0.5
    >>> share_of_ties(torch.tensor([[1.0, 2.0, 1.0, 3.0]]), torch.tensor([[7, 8, 7, 9]]))
    0.0
    """
    if scores.numel() == 0:
        return 0.0
    if kinds is not None:
        scores = _once_of_a_kind(scores, kinds)
    ordered = scores.sort(dim=1).values
    equal = ordered[:, 1:] == ordered[:, :-1]
    tied = torch.zeros_like(ordered, dtype=torch.bool)
    tied[:, 1:] |= equal
    tied[:, :-1] |= equal
    return tied.double().mean().item()


def _once_of_a_kind(scores: Tensor, kinds: Tensor) -> Tensor:
    """Each list in ascending order; NaN, which equals nothing, for a kind's repeated score."""
    by_kind = kinds.argsort(dim=1, stable=True)
    kinds, scores = kinds.gather(1, by_kind), scores.gather(1, by_kind).double()
    by_score = scores.argsort(dim=1, stable=True)
    kinds, scores = kinds.gather(1, by_score), scores.gather(1, by_score)
    again = (scores.diff(dim=1) == 0) & (kinds.diff(dim=1) == 0)
    scores[:, 1:].masked_fill_(again, torch.nan)
    return scores
