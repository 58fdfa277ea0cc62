from dataclasses import asdict, replace

import pytest
import torch

from edje.records import CandidateList
from edje.retrieval.fusion import WEIGHTS, Standardiser, SumFusion, fit_sum, fit_sum_weight
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.retrieval.rerank import RerankedList

SAME = Standardiser(0.0, 1.0)


def lists(first, joint, relevant):
    first, joint = torch.tensor(first), torch.tensor(joint)
    relevant = torch.tensor(relevant, dtype=torch.bool)
    candidates = torch.arange(first.shape[1]).expand(first.shape)
    return RerankedList(
        CandidateList("t2i", candidates, first, relevant, relevant.sum(1)), joint, joint
    )


def noisy(seed, joint_noise, queries=200, pool=8):
    """Both stages see the relevant item (the last) one deviation higher, through noise."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.zeros(queries, pool)
    signal[:, -1] = 1.0
    first, joint = (
        signal + noise * torch.randn(queries, pool, generator=generator)
        for noise in (1.0, joint_noise)
    )
    relevant = (signal > 0).tolist()
    return lists(first.tolist(), joint.tolist(), relevant)


def recall_at_1(reranked):
    return recall_at_k(first_hit_ranks(reranked.final, reranked.first.relevant), (1,))[1]


def test_a_standardiser_takes_mean_and_deviation_out():
    scores = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    fitted = Standardiser.fit(scores)
    assert fitted.mean == 4.0
    torch.testing.assert_close(fitted(scores).mean(), torch.tensor(0.0, dtype=torch.double))
    torch.testing.assert_close(
        fitted(scores).std(correction=0), torch.tensor(1.0, dtype=torch.double)
    )


def test_a_standardiser_knows_small_deviations_and_is_fitted_in_double_precision():
    assert Standardiser.fit(torch.tensor([0.25, 0.75])) == Standardiser(0.5, 0.25)
    halves = torch.tensor([2045.0, 2046.0, 2047.0, 2048.0]).half()
    assert Standardiser.fit(halves) == Standardiser(2046.5, 1.25**0.5)


def test_constant_scores_are_standardised_to_zero():
    assert Standardiser.fit(torch.full((2, 2), 3.0)) == Standardiser(3.0, 1.0)
    assert Standardiser.fit(torch.full((2, 2), 3.0))(torch.full((2, 2), 3.0)).abs().max() == 0


def test_the_sum_worked_by_hand():
    given = lists([[1.0, 2.0]], [[10.0, 20.0]], [[0, 1]])
    fused = SumFusion(0.25, Standardiser(1.0, 2.0), Standardiser(10.0, 5.0))(given)
    torch.testing.assert_close(fused.final, torch.tensor([[0.0, 0.875]], dtype=torch.double))
    assert fused.joint is given.joint


@pytest.mark.parametrize(("weight", "stage"), [(0.0, "first"), (1.0, "joint")])
def test_the_ends_of_the_grid_are_the_stages_themselves(weight, stage):
    given = noisy(0, 2.0)
    fused = SumFusion(weight, Standardiser(0.3, 7.0), Standardiser(-2.0, 0.1))(given)
    scores = given.first.scores if stage == "first" else given.joint
    ranks = first_hit_ranks(scores, given.first.relevant)
    assert torch.equal(first_hit_ranks(fused.final, given.first.relevant), ranks)


def test_a_joint_encoder_that_says_nothing_gets_no_weight():
    given = lists([[2.0, 1.0]], [[0.0, 0.0]], [[1, 0]])
    assert fit_sum_weight(given, SAME, SAME) == 0.0
    assert fit_sum_weight(given, SAME, SAME, weights=(0.5, 0.25)) == 0.0


def test_the_weight_takes_all_places_into_account_not_the_first_alone():
    """At half the weight a relevant candidate moves from place 3 to 2: no hit, but nearer."""
    first, joint = [[3.0, 2.0, 1.0]] * 20, [[3.0, 0.0, 2.0]] * 20
    given = lists(first, joint, [[0, 0, 1]] * 20)
    assert fit_sum_weight(given, SAME, SAME, weights=(0.0, 0.75)) == 0.75


def test_the_grid_goes_from_one_stage_to_the_other_in_twentieths():
    assert list(WEIGHTS) == [twentieth / 20 for twentieth in range(21)]


def test_a_weight_is_compared_with_the_first_stage_alone_even_if_that_is_not_on_the_grid():
    """At a tenth of the weight the relevant candidate has already won."""
    given = lists([[1.0, 0.95]] * 20, [[0.0, 1.0]] * 20, [[0, 1]] * 20)
    assert fit_sum_weight(given, SAME, SAME, weights=(0.5,)) == 0.5


@pytest.mark.parametrize(("direction", "enough"), [("t2i", 9), ("i2t", 4)])
def test_a_weight_must_gain_three_errors_over_captions_and_two_over_images(direction, enough):
    """Of 100 queries some go from place 2 to 1: their number n has n ** 0.5 errors, about."""

    def fitted(better):
        joint = [[0.0, 1.0]] * better + [[1.0, 0.0]] * (100 - better)
        relevant = [[0, 1]] * better + [[1, 0]] * (100 - better)
        given = lists([[1.0, 0.0]] * 100, joint, relevant)
        given = replace(given, first=replace(given.first, direction=direction))
        return fit_sum_weight(given, SAME, SAME, weights=(0.75,))

    assert fitted(enough) == 0.75
    assert fitted(enough - 1) == 0.0


@pytest.mark.parametrize(("better", "kept"), [(8, 0.6), (0, 0.6), (-8, 0.6), (-9, 0.0), (9, 0.75)])
def test_a_weight_known_from_before_is_kept_unless_dev_shows_a_gain_or_a_loss(better, kept):
    """Of 100 queries that many go from place 2 to 1, or from 1 to 2, at both weights."""
    moved = abs(better)
    joint = [[0.0, 3.0]] * moved + [[3.0, 0.0]] * (100 - moved)
    relevant = [[0, 1] if better > 0 else [1, 0]] * moved + [[1, 0]] * (100 - moved)
    given = lists([[1.0, 0.0]] * 100, joint, relevant)
    assert fit_sum_weight(given, SAME, SAME, weights=(0.75,), before=0.6) == kept


def test_two_stages_with_independent_errors_beat_either():
    given = noisy(1, 1.0, queries=3000)
    fusion = fit_sum(given)
    assert 0 < fusion.weight < 1
    alone = [recall_at_1(SumFusion(w, fusion.first, fusion.joint)(given)) for w in (0.0, 1.0)]
    assert recall_at_1(fusion(given)) > max(alone)


def test_a_gain_within_chance_on_dev_gives_no_weight():
    """The best weight on dev is above 0 for most of these; it says nothing of other data."""
    best, fitted = [], []
    for seed in range(12):
        given = noisy(seed, 1000.0)
        first, joint = Standardiser.fit(given.first.scores), Standardiser.fit(given.joint)
        recalls = [recall_at_1(SumFusion(w / 20, first, joint)(given)) for w in range(21)]
        best.append(recalls.index(max(recalls)) > 0)
        fitted.append(fit_sum(given).weight > 0)
    assert sum(best) >= 6 and sum(fitted) <= 2


def test_a_joint_encoder_that_is_right_gets_its_weight():
    given = noisy(0, 0.2, queries=1000)
    fusion = fit_sum(given)
    assert fusion.weight >= 0.5
    assert recall_at_1(fusion(given)) > recall_at_1(SumFusion(0.0, *[SAME] * 2)(given)) + 0.3


def test_a_fusion_survives_as_plain_numbers():
    fusion = fit_sum(noisy(2, 1.0))
    kept = asdict(fusion)
    again = SumFusion(kept["weight"], Standardiser(**kept["first"]), Standardiser(**kept["joint"]))
    assert again == fusion
