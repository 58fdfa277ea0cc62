"""Claims about scoring a part of the queries."""

import pytest
import torch

from edje.pipeline.shares import ScoringWork, of_queries, score
from edje.records import CandidateList
from tests.tiny.scoring import collection, reranker_of


@pytest.mark.parametrize("share", [(0, 1), (0, 2), (1, 2), (3, 4)])
def test_a_part_of_the_queries_gets_the_scores_that_it_has_among_all(share):
    """Each with its own caption: a query's row is its own, not its place among the scored."""
    stored = collection(texts=12, images=9)
    candidates = torch.arange(5).repeat(12, 1)
    model = reranker_of()
    lists = CandidateList(
        "t2i", candidates, torch.rand(12, 5), torch.rand(12, 5) > 0.5, torch.ones(12).long()
    )
    rows = torch.arange(0, 12, 2)
    work = [
        ScoringWork(model, stored, torch.float32, 16, [lists]),
        ScoringWork(model, stored, torch.float32, 16, [of_queries(lists, rows)], queries=[rows]),
    ]
    (every,), _ = score(work[0], lambda _: None)
    (some,), _ = score(work[1], lambda _: None, share)
    queries = rows[share[0] :: share[1]]
    torch.testing.assert_close(some.joint, every.joint[queries], rtol=0, atol=1e-6)
    assert torch.equal(some.first.candidates, candidates[queries])
    assert (every.joint[1:] - every.joint[:-1]).abs().amax(dim=1).min() > 1e-4  # the word matters
    assert (work[0].num_pairs, work[1].num_pairs) == (60, 30)
