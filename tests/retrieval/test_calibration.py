"""The probability that a hit is right, on searches whose truth is known."""

import math
from dataclasses import replace

import pytest
import torch

from edje.errors import EdjeError
from edje.retrieval.calibration import Calibration, Searches, features, fit_calibration
from edje.retrieval.metrics import best_first

HALF = 0.5  # of the searches seek what is there


def drawn(count: int, gap: float, sizes=(50, 500, 5000), seed: int = 0) -> Searches:
    """Impostors are normal, the best 10 of each gallery; half of the searches have a right one too,
    on average `gap` deviations higher than a single impostor."""
    generator = torch.Generator().manual_seed(seed)
    gallery_sizes = torch.tensor(sizes).repeat_interleave(count)
    # The greatest of n uniform draws is u^(1/n), the next one the greatest of n - 1 below it.
    draws = torch.rand(len(gallery_sizes), 10, generator=generator, dtype=torch.float64)
    places = (draws ** (1 / (gallery_sizes[:, None] - torch.arange(10)))).cumprod(dim=1)
    scores = 2**0.5 * torch.erfinv(2 * places - 1)
    right = torch.zeros_like(scores, dtype=torch.bool)
    there = torch.rand(len(scores), generator=generator) < HALF
    own = gap + torch.randn(len(scores), generator=generator, dtype=torch.float64)
    scores[:, -1] = torch.where(there, own, scores[:, -1])
    right[:, -1] = there
    return Searches(scores, right, gallery_sizes)


def first_hits(fitted: Calibration, searches: Searches) -> tuple[torch.Tensor, torch.Tensor]:
    """Probability of each search's first hit, and whether it is right."""
    return fitted.first_hits(searches), best_first(searches.scores, searches.right)[1][:, 0]


def made(**changes) -> Calibration:
    """Worked by hand: a score of 1 ahead by 1 is as likely right as wrong."""
    given = Calibration("joint", -3.0, 1.0, 0.25, 1.75, 0.5, 0.0, 50, 1000, 10**6, ())
    return replace(given, **changes)


def test_the_features_of_a_list_worked_by_hand():
    found = features(
        torch.tensor([[1.0, 4.0, 3.75], [2.0, 2.0, -torch.inf]]), torch.tensor([1, 10])
    )
    ten = math.log(10)
    assert found.tolist() == [
        [[1.0, 0.0, 0.0, -3.0, 0.0], [4.0, 1.0, 0.5, 0.0, 0.0], [3.75, 0.0, 0.0, -0.25, 0.0]],
        [[2.0, 1.0, 0.0, 0.0, ten], [2.0, 1.0, 0.0, 0.0, ten], [0.0, 0.0, 0.0, 0.0, ten]],
    ]


def test_a_lone_hit_has_no_lead():
    assert features(torch.tensor([7.0]), torch.tensor(1)).tolist() == [[7.0, 1.0, 0.0, 0.0, 0.0]]


def test_probabilities_worked_by_hand_come_in_the_order_given():
    found = made().probability(torch.tensor([0.0, 1.0, -3.0]), 100)
    odds = [-3 + 0 - 0.5, -3 + 1 + 0.25 + 1.75, -3 - 3 - 0.5 * 4]
    expected = torch.tensor([1 / (1 + math.exp(-one)) for one in odds], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    several = made().probability(torch.tensor([[0.0, 1.0, -3.0], [5.0, 5.0, 5.0]]), 100)
    assert torch.equal(several[0], found) and several.shape == (2, 3)


def test_a_gallery_below_those_of_the_fit_counts_as_the_smallest_and_a_larger_one_is_harder():
    """Continued beyond the fit, the line was nearer to the truth than the largest of the fit."""
    fitted, scores = made(per_log_size=-0.3), torch.tensor([2.0, 1.0])
    assert torch.equal(fitted.probability(scores, 3), fitted.probability(scores, 50))
    odds = [fitted.probability(scores, size)[0].logit().item() for size in (50, 1000, 20_000)]
    assert odds[0] - odds[1] == pytest.approx(0.3 * math.log(20))
    assert odds[1] - odds[2] == pytest.approx(0.3 * math.log(20))


def test_what_isnt_in_a_list_is_not_right():
    scores = torch.tensor([3.0, -torch.inf])
    assert made().probability(scores, 100).tolist()[1] == 0.0


def test_a_known_logistic_law_is_recovered():
    """Over 20 seeds the intercept was within 0.25 of the true one, the weights within 0.21."""
    generator = torch.Generator().manual_seed(0)
    best, behind = torch.randn(8000, generator=generator), torch.rand(8000, generator=generator)
    scores = torch.stack([best, best - 3 * behind], dim=1)
    sizes = torch.tensor([50, 200, 800, 3200]).repeat(2000)
    law = made(
        intercept=1.5, per_score=1.0, per_first=0.5, per_root_lead=0.8, per_lag=0.6,
        per_log_size=-0.4, largest_gallery=3200,
    )  # fmt: skip
    probability = torch.empty_like(scores, dtype=torch.float64)
    for size in sizes.unique():
        probability[sizes == size] = law.probability(scores[sizes == size], int(size))
    right = torch.rand(probability.shape, generator=generator) < probability
    fitted = fit_calibration(Searches(scores, right, sizes), "joint")
    names = ("intercept", "per_score", "per_first", "per_root_lead", "per_lag", "per_log_size")
    for name in names:
        assert getattr(fitted, name) == pytest.approx(getattr(law, name), abs=0.4), name
    assert (fitted.smallest_gallery, fitted.largest_gallery) == (50, 3200)
    assert fitted.num_searches == 8000 and fitted.score == "joint"


@pytest.mark.parametrize("gap", [2.0, 4.0])
def test_on_other_searches_of_the_kind_it_says_how_often_the_first_hit_is_right(gap):
    """Of every size, in each quarter of the searches by probability; within 0.12 over 20 seeds."""
    fitted = fit_calibration(drawn(400, gap), "joint")
    other = drawn(1500, gap, seed=1)
    probability, right = first_hits(fitted, other)
    for size in other.gallery_sizes.unique():
        some = other.gallery_sizes == size
        quarters = probability[some].argsort().chunk(4)
        for rows in quarters:
            share = right[some][rows].double().mean().item()
            assert share == pytest.approx(probability[some][rows].mean().item(), abs=0.15)


def test_a_higher_score_is_never_less_likely_right_and_a_larger_gallery_never_more():
    for seed, gap in enumerate((0.0, 1.0, 3.0, 30.0)):
        fitted = fit_calibration(drawn(100, gap, seed=seed), "joint")
        rising = torch.linspace(-5, 35, 200)
        lists = torch.stack([rising, torch.ones(200), torch.zeros(200)], dim=1)
        assert (fitted.probability(lists, 100)[:, 0].diff() >= 0).all()
        ordered = fitted.probability(torch.tensor([4.0, 3.0, 2.5, -1.0]), 100)
        assert (ordered.diff() <= 0).all()
        assert (fitted.probability(lists, 5000) <= fitted.probability(lists, 50)).all()


def test_a_lead_that_speaks_against_a_hit_counts_for_nothing():
    """As where several captions are right: these are close to each other."""
    generator = torch.Generator().manual_seed(0)
    best, near = torch.randn(600, generator=generator), torch.rand(600, generator=generator) < 0.5
    scores = torch.stack([best, best - torch.where(near, 0.1, 2.0)], dim=1)
    right = near[:, None].expand_as(scores)
    fitted = fit_calibration(Searches(scores, right, torch.full((600,), 100)), "joint")
    assert fitted.per_root_lead == 0.0 and fitted.per_lag > 0.0
    assert min(fitted.per_score, fitted.per_first, -fitted.per_log_size) >= 0.0


def test_among_more_impostors_the_same_score_is_less_likely_right():
    fitted = fit_calibration(drawn(400, 4.0), "joint")
    few, many = (fitted.probability(torch.tensor([3.5, 2.5]), size)[0] for size in (50, 5000))
    assert few > many + 0.1


def test_right_and_wrong_far_apart_give_finite_weights_and_no_certainty():
    fitted = fit_calibration(drawn(100, 1000.0), "joint")
    assert all(math.isfinite(value) for value in vars(fitted).values() if type(value) is float)
    probability, right = first_hits(fitted, drawn(100, 1000.0, seed=1))
    assert (probability[right] > 0.95).all() and (probability[~right] < 0.2).all()
    assert probability.max() <= 1 - 1 / 302 and probability.min() >= 1 / 302


def test_no_hit_is_surer_than_the_number_of_searches_allows():
    found = made(num_searches=98).probability(torch.tensor([1e3, -1e3]), 100)
    assert found.tolist() == pytest.approx([0.99, 0.01])


def test_where_no_feature_varies_the_intercept_alone_balances_the_penalty():
    """Slope of the loss at it: Σ (probability − right) + intercept = 0."""
    for num_right in (0, 3, 10):
        right = (torch.arange(10) < num_right)[:, None]
        searches = Searches(torch.full((10, 1), 2.0), right, torch.full((10,), 100))
        fitted = fit_calibration(searches, "joint")
        probability = 1 / (1 + math.exp(-fitted.intercept))
        assert fitted.intercept == pytest.approx(num_right - 10 * probability, abs=1e-9)
        assert (fitted.per_score, fitted.per_first, fitted.per_log_size) == (0.0, 0.0, 0.0)


def test_without_a_right_hit_all_are_unlikely_and_no_threshold_is_given():
    searches = drawn(100, 3.0)
    useless = replace(searches, right=torch.zeros_like(searches.right))
    fitted = fit_calibration(useless, "joint")
    assert first_hits(fitted, searches)[0].max() < 0.05
    with pytest.raises(EdjeError, match=r"no probability reached precision=0\.5.* best is 0\.000"):
        fitted.threshold(0.5)


def test_scores_that_say_nothing_give_the_share_that_is_right():
    searches = drawn(500, 3.0)
    generator = torch.Generator().manual_seed(3)
    right = torch.zeros_like(searches.right)
    right[:, 0] = torch.rand(len(right), generator=generator) < 0.3
    ranked = replace(searches, scores=searches.scores.sort(descending=True).values, right=right)
    probability, _ = first_hits(fit_calibration(ranked, "joint"), ranked)
    assert probability.mean().item() == pytest.approx(0.3, abs=0.03)
    assert probability.std().item() < 0.06


def test_first_hits_above_the_threshold_are_right_as_often_as_asked():
    """On other searches of the kind; over 20 seeds at most 0.028 fewer."""
    fitted, other = fit_calibration(drawn(400, 4.0), "joint"), drawn(1500, 4.0, seed=1)
    probability, right = first_hits(fitted, other)
    everything = right.double().mean().item()
    for precision in (0.7, 0.8, 0.9):
        accepted = probability >= fitted.threshold(precision)
        assert everything < precision - 0.04 < right[accepted].double().mean().item()
        assert accepted.double().mean().item() > 0.25
    assert fitted.threshold(0.7) < fitted.threshold(0.9)


def test_operating_points_go_from_all_answers_to_few():
    points = fit_calibration(drawn(400, 4.0), "joint").operating_points
    answered = [point.answered for point in points]
    assert answered[0] == 1.0 and answered == sorted(answered, reverse=True)
    assert answered[-1] == pytest.approx(0.05, abs=0.01) and len(points) == 20


@pytest.mark.parametrize("precision", [0.0, 1.5, 90.0, -1.0])
def test_a_precision_is_a_share(precision):
    with pytest.raises(EdjeError, match=f"precision={precision} is not a share.*0.9"):
        made().threshold(precision)


def test_the_same_searches_give_the_same_calibration():
    assert fit_calibration(drawn(100, 2.0), "sum") == fit_calibration(drawn(100, 2.0), "sum")
