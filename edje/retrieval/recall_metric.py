"""Torchmetrics shells around the pure metrics, for validation during training."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from edje.retrieval.metrics import first_hit_ranks, hits_at_k
from edje.retrieval.report import CUTOFFS
from edje.retrieval.rerank import RerankedList


class RerankedRecall(Metric):
    """Recall of first stage and reranking over all lists seen, on all ranks, in percent.

    `compute` gives `first_stage/recall@k`, `reranked/recall@k`, `gain/recall@k` (points) and
    `ceiling`. Each query must be seen once: a sampler that repeats queries to fill up its last
    batch falsifies the counts.
    """

    full_state_update = False
    higher_is_better = True

    before: Tensor
    after: Tensor
    listed: Tensor
    queries: Tensor

    def __init__(self, ks: Sequence[int] = CUTOFFS) -> None:
        super().__init__()
        self.ks = tuple(ks)
        for name in ("before", "after"):
            zeros = torch.zeros(len(self.ks), dtype=torch.long)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        for name in ("listed", "queries"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, reranked: RerankedList) -> None:
        """Count the hits of some lists, before and after."""
        relevant = reranked.first.relevant
        before = hits_at_k(first_hit_ranks(reranked.first.scores, relevant), self.ks)
        after = hits_at_k(first_hit_ranks(reranked.final, relevant), self.ks)
        self.before += before.sum(dim=0)
        self.after += after.sum(dim=0)
        self.listed += relevant.any(dim=1).sum()
        self.queries += len(relevant)

    def compute(self) -> dict[str, Tensor]:
        """Recalls in percent, the gain in points."""
        before, after = 100 * self.before / self.queries, 100 * self.after / self.queries
        results = {"ceiling": 100 * self.listed / self.queries}
        for column, k in enumerate(self.ks):
            results[f"first_stage/recall@{k}"] = before[column]
            results[f"reranked/recall@{k}"] = after[column]
            results[f"gain/recall@{k}"] = after[column] - before[column]
        return results
