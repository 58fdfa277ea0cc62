"""Recall as metrics that Lightning logs, over the queries of all ranks."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from edje.retrieval.metrics import hits_at_k
from edje.retrieval.report import CUTOFFS


class RecallAtK(Metric):
    """Percentage of queries whose first hit is among the `k` best.

    When called with this rank's queries, possibly none, it returns the value over those of all
    ranks. Each query must be seen once.
    """

    full_state_update = False
    higher_is_better = True

    hits: Tensor
    queries: Tensor

    def __init__(self, k: int):
        super().__init__(dist_sync_on_step=True)
        self.k = k
        for name in ("hits", "queries"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, ranks: Float[Tensor, "queries"]) -> None:
        """Count the hits of some queries; `ranks` come from `first_hit_ranks`."""
        self.hits += hits_at_k(ranks, (self.k,)).sum()
        self.queries += len(ranks)

    def compute(self) -> Float[Tensor, ""]:
        """In percent; not a number if there was no query."""
        return 100 * self.hits / self.queries


def recall_metrics(prefix: str, ks: Sequence[int] = CUTOFFS) -> MetricCollection:
    """One metric per cutoff, logged as `<prefix>recall@<k>`."""
    return MetricCollection({f"recall@{k}": RecallAtK(k) for k in ks}, prefix=prefix)
