import pytest
import torch

from edje.errors import EdjeError
from edje.records import CandidateList
from edje.retrieval.rerank import rerank, share_of_ties


def a_list(queries=3, pool=4):
    generator = torch.Generator().manual_seed(0)
    return CandidateList(
        "t2i",
        torch.stack([torch.randperm(9, generator=generator)[:pool] for _ in range(queries)]),
        torch.rand(queries, pool, generator=generator).sort(descending=True).values,
        torch.zeros(queries, pool, dtype=torch.bool),
        torch.ones(queries, dtype=torch.long),
    )


def digits(direction, queries, candidates, first_stage):
    """A score that shows what the scorer was given."""
    return 100 * queries + 10 * candidates + first_stage


def expected(first):
    return 100 * torch.arange(len(first.candidates))[:, None] + 10 * first.candidates + first.scores


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_every_pair_gets_its_own_score_whatever_the_batch_size(batch_size):
    first = a_list()
    reranked = rerank(first, digits, batch_size)
    torch.testing.assert_close(reranked.joint, expected(first))
    assert reranked.final is reranked.joint
    assert reranked.first is first


def test_pairs_scored_in_the_order_of_a_key_come_back_in_place():
    first, seen = a_list(), []

    def scorer(direction, queries, candidates, first_stage):
        seen.extend(candidates.tolist())
        return digits(direction, queries, candidates, first_stage)

    reranked = rerank(first, scorer, 5, key=lambda direction, queries, candidates: candidates)
    assert seen == sorted(seen)
    torch.testing.assert_close(reranked.joint, expected(first))


def test_progress_counts_every_pair_once():
    done = []
    rerank(a_list(), digits, 5, done.append)
    assert done == [5, 5, 2]


def test_low_precision_scores_are_kept_in_float32():
    reranked = rerank(a_list(), lambda *pair: digits(*pair).bfloat16(), 5)
    assert reranked.joint.dtype == torch.float32


def test_scores_that_are_not_finite_are_refused():
    def scorer(direction, queries, candidates, first_stage):
        return torch.where(queries == 1, torch.nan, first_stage)

    with pytest.raises(EdjeError, match="not finite for 4 of 12 pairs"):
        rerank(a_list(), scorer, 5)


def test_ties_are_counted_within_a_list_only():
    assert share_of_ties(torch.tensor([[1.0, 2.0], [1.0, 2.0]])) == 0
    assert share_of_ties(torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])) == 0.5
    assert share_of_ties(torch.zeros(2, 1)) == 0
    scores = torch.tensor([[2.0, 1.0, 1.0, 1.0], [1.0, 1.0, 3.0, 4.0]])
    alike = torch.tensor([[1, 5, 6, 5], [5, 5, 1, 2]])
    assert share_of_ties(scores) == 5 / 8
    assert share_of_ties(scores, alike) == 2 / 8  # 5 and 6, the second 5 with neither
    assert share_of_ties(torch.zeros(0, 3)) == 0
