import pytest
import torch

from edje.errors import EdjeError
from edje.retrieval.metrics import best_first, first_hit_ranks, hits_at_k, recall_at_k

INF = float("inf")


def ranks(scores, relevant):
    return first_hit_ranks(torch.tensor(scores), torch.tensor(relevant, dtype=torch.bool)).tolist()


def test_ranks_of_a_matrix_worked_by_hand():
    scores = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.8, 0.4]]
    relevant = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert ranks(scores, relevant) == [1, 3, 2]


def test_whole_numbers_are_scores_too():
    assert ranks([[9, 5, 1], [2, 8, 4]], [[0, 1, 0], [1, 0, 1]]) == [2, 2]


def test_a_list_is_put_in_order_with_the_relevant_ones_last_among_equals():
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 7.0, 5.0]])
    relevant = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.bool)
    ordered, right = best_first(scores, relevant)
    assert ordered.tolist() == [[3.0, 3.0, 2.0, 1.0], [7.0, 5.0, 5.0, 5.0]]
    assert right.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_of_several_captions_the_best_one_counts_and_the_others_are_not_in_its_way():
    assert ranks([[0.9, 0.8, 0.7, 0.6]], [[0, 1, 1, 0]]) == [2]
    assert ranks([[0.1, 0.8, 0.9, 0.6]], [[1, 1, 1, 0]]) == [1]


def test_a_tie_with_a_non_relevant_candidate_is_lost_on_either_side():
    assert ranks([[0.5, 0.5, 0.1]], [[1, 0, 0]]) == [2]
    assert ranks([[0.5, 0.5, 0.1]], [[0, 1, 0]]) == [2]


def test_a_tie_among_relevant_candidates_costs_nothing():
    assert ranks([[0.5, 0.5, 0.1]], [[1, 1, 0]]) == [1]


def test_all_equal_scores_earn_nothing():
    assert ranks([[0.0] * 5] * 5, torch.eye(5).tolist()) == [5] * 5


def test_a_positive_missing_from_the_pool_is_never_a_hit():
    found = ranks([[0.5, 0.4]], [[0, 0]])
    assert found == [INF]
    assert recall_at_k(torch.tensor(found), (1, 10**6)) == {1: 0.0, 10**6: 0.0}


def test_scores_that_are_not_numbers_lose():
    nan = float("nan")
    assert ranks([[nan, 0.1, 0.2]], [[1, 0, 0]]) == [3]
    assert ranks([[0.5, nan, 0.2]], [[1, 0, 0]]) == [2]
    assert ranks([[nan, nan]], [[1, 0]]) == [2]
    assert ranks([[nan, 5, 1], [nan, 0.5, 1]], [[1, 1, 0]] * 2) == [1, 2]


@pytest.mark.parametrize("k", [0, -3])
def test_a_cutoff_below_one_is_refused(k):
    with pytest.raises(EdjeError, match=f"k={k}: expected a whole number of 1 or more"):
        recall_at_k(torch.tensor([1.0]), (1, k))


def test_minus_infinity_is_a_score_like_any_other():
    assert ranks([[-INF, 0.0, -INF]], [[1, 0, 0]]) == [3]


def test_recall_counts_ranks_up_to_k():
    found = torch.tensor([1.0, 2.0, 5.0, INF])
    assert recall_at_k(found, (1, 5, 10)) == {1: 0.25, 5: 0.75, 10: 0.75}
    assert hits_at_k(found, (1, 5)).tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]


def test_a_pool_smaller_than_k_counts_hits_anywhere_in_it():
    found = first_hit_ranks(torch.tensor([[0.1, 0.9]]), torch.tensor([[True, False]]))
    assert recall_at_k(found, (1, 10)) == {1: 0.0, 10: 1.0}
