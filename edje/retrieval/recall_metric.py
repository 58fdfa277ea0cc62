"""Recall as metrics that Lightning logs, over the queries of all ranks."""

from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection

from edje.retrieval.metrics import hits_at_k
from edje.retrieval.report import CUTOFFS


class RecallAtK(MeanMetric):
    """Percentage of queries whose first hit is among the `k` best.

    When called with this rank's queries, possibly none, it returns the value over those of all
    ranks, which is not a number if there is no query. Each query must be seen once.
    """

    def __init__(self, k: int):
        super().__init__(dist_sync_on_step=True)
        self.k = k

    def update(self, ranks: Float[Tensor, "queries"]) -> None:  # type: ignore[override]
        """Count the hits of some queries; `ranks` come from `first_hit_ranks`."""
        super().update(100.0 * hits_at_k(ranks, (self.k,)))


def recall_metrics(prefix: str) -> MetricCollection:
    """One metric per cutoff, logged as `<prefix>recall@<k>`."""
    metrics: dict[str, Metric | MetricCollection]
    metrics = {f"recall@{k}": RecallAtK(k) for k in CUTOFFS}
    # Cutoffs whose first values are equal would else be taken for one metric from then on.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)
