"""Claims about recall as a metric; over several ranks: tests/parallel/test_collectives.py."""

import math

import torch

from edje.retrieval.metrics import recall_at_k
from edje.retrieval.recall_metric import RecallAtK, recall_metrics

RANKS = torch.tensor([1.0, 5.0, math.inf, 6.0, 1.0, 2.0])


def test_recall_is_in_percent_by_cutoff():
    found = recall_metrics("dev/t2i_")(RANKS)
    assert set(found) == {"dev/t2i_recall@1", "dev/t2i_recall@5", "dev/t2i_recall@10"}
    right = {1: 2 / 6, 5: 4 / 6, 10: 5 / 6}
    for k, share in right.items():
        torch.testing.assert_close(found[f"dev/t2i_recall@{k}"], torch.tensor(100 * share))
        assert torch.tensor(100 * recall_at_k(RANKS, (k,))[k]) == found[f"dev/t2i_recall@{k}"]


def test_cutoffs_that_begin_with_equal_values_are_still_counted_apart():
    metrics = recall_metrics("")
    for ranks in ([1.0, 1.0], [3.0, 8.0]):
        metrics.update(torch.tensor(ranks))
    assert metrics.compute() == {"recall@1": 50.0, "recall@5": 75.0, "recall@10": 100.0}


def test_it_is_the_same_however_the_queries_are_split_and_starts_again_after_a_reset():
    whole, parts = RecallAtK(1), RecallAtK(1)
    for part in (RANKS[:1], RANKS[1:1], RANKS[1:]):
        parts(part)
    assert parts.compute() == whole(RANKS)
    parts.reset()
    assert parts(torch.tensor([1.0])) == 100.0
