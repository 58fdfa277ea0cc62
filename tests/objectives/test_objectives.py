import math

import pytest
import torch
from torch.nn import functional as F

from edje.objectives.alignment import Alignment
from edje.objectives.distillation import Distillation
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.outputs import (
    AlignedPairs,
    MaskedWords,
    PairLogits,
    RecoveredText,
    StepOutputs,
)
from edje.objectives.text_recovery import TextRecovery

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0]])


def outputs(t2i=LOGITS, i2t=LOGITS, **parts) -> StepOutputs:
    return StepOutputs(pairs=PairLogits(t2i, i2t), **parts)


def test_softmax_matching_is_the_cross_entropy_of_the_first_column():
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert Matching()(outputs()).item() == pytest.approx(expected, rel=1e-6)


def test_matching_averages_the_two_directions():
    even = torch.zeros(2, 2)
    loss = Matching()(outputs(i2t=even)).item()
    one = Matching()(outputs()).item()
    assert loss == pytest.approx((one + math.log(2)) / 2, rel=1e-6)


def test_binary_matching_balances_positives_and_negatives():
    softplus = F.softplus(torch.tensor([-2.0, 0.0, 0.0, 1.0])).tolist()
    expected = ((softplus[0] + softplus[1]) / 2 + (softplus[2] + softplus[3]) / 2) / 2
    assert Matching(form="binary")(outputs()).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("masked", [1, 3])
def test_masked_language_is_the_mean_over_masked_positions(masked):
    logits, labels = torch.zeros(masked, 10), torch.arange(masked)
    loss = MaskedLanguage()(outputs(masked=MaskedWords(logits, labels)))
    assert loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_masked_words_weigh_the_same_on_whichever_rank_they_are():
    """One word on the first rank, three on the second: two on average."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(4, 10, generator=generator), torch.tensor([1, 2, 3, 4])
    whole = MaskedLanguage()(outputs(masked=MaskedWords(logits, labels)))
    shares = [
        MaskedLanguage()(outputs(masked=MaskedWords(logits[own], labels[own], torch.tensor(2.0))))
        for own in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(shares) / 2, whole)
    none = MaskedWords(logits[:0], labels[:0], torch.tensor(0.0))
    assert MaskedLanguage()(outputs(masked=none)).item() == 0


def test_the_ends_of_the_ranges_are_allowed():
    assert [MaskedLanguage(probability=share).probability for share in (0.0, 1.0)] == [0.0, 1.0]
    assert [Matching(weight=weight).weight for weight in (0.0, 0.5)] == [0.0, 0.5]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_a_share_of_masked_words_lies_between_none_and_all(value):
    with pytest.raises(ValueError, match="expected from 0 to 1"):
        MaskedLanguage(probability=value)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_weight_that_would_unlearn_is_refused(value):
    with pytest.raises(ValueError, match="expected at least 0"):
        Matching(weight=value)


def test_masked_language_without_a_masked_word_is_zero_and_has_a_gradient():
    logits = torch.zeros(0, 10, requires_grad=True)
    loss = MaskedLanguage()(outputs(masked=MaskedWords(logits, torch.zeros(0).long())))
    loss.backward()
    assert loss.item() == 0


def test_text_recovery_is_one_minus_cosine():
    target = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    for recovered, distance in ((3 * target, 0), (-target, 2)):
        loss = TextRecovery()(outputs(text_only=RecoveredText(recovered, target)))
        assert loss.item() == pytest.approx(distance)


def test_binary_distillation_is_the_mean_of_three_means():
    teacher = torch.tensor([[1.0, -1.0], [0.5, 0.0]])
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    images = torch.tensor([[2.0, 3.0], [0.0, -1.0]])

    def bce(logit, target):
        chance = 1 / (1 + math.exp(-target))
        return -(
            chance * math.log(1 / (1 + math.exp(-logit)))
            + (1 - chance) * math.log(1 - 1 / (1 + math.exp(-logit)))
        )

    positives = (bce(2, 1) + bce(0, 0.5)) / 2
    wrong_images = (bce(0, -1) + bce(1, 0)) / 2
    wrong_captions = (bce(3, -1) + bce(-1, 0)) / 2
    loss = Distillation()(outputs(student, images, teacher=PairLogits(teacher, teacher)))
    assert loss.item() == pytest.approx((positives + wrong_images + wrong_captions) / 3, rel=1e-5)


def test_listwise_distillation_is_blind_to_the_teachers_level():
    same = outputs(teacher=PairLogits(LOGITS + 5, LOGITS - 3))
    assert Distillation(form="listwise")(same).item() == pytest.approx(0, abs=1e-6)
    assert Distillation()(same).item() > 0.1


def test_alignment_is_the_cross_entropy_of_both_directions():
    similarity = torch.tensor([[0.8, 0.1, 0.3], [0.2, 0.5, 0.4], [0.0, 0.6, 0.9]])
    loss = Alignment(temperature=0.1)(
        outputs(alignment=AlignedPairs(similarity, torch.eye(3).bool()))
    )
    rows = [
        -math.log(math.exp(row[i]) / sum(map(math.exp, row)))
        for i, row in enumerate((10 * similarity).tolist())
    ]
    columns = [
        -math.log(math.exp(row[i]) / sum(map(math.exp, row)))
        for i, row in enumerate((10 * similarity.T).tolist())
    ]
    assert loss.item() == pytest.approx((sum(rows) + sum(columns)) / 6, rel=1e-5)


def test_a_match_by_chance_is_no_rival_of_the_alignment():
    similarity = torch.tensor([[0.8, 0.9, 0.3], [0.2, 0.5, 0.4], [0.0, 0.6, 0.9]])
    same = torch.eye(3).bool()
    same[0, 1] = True  # caption 0 is true of image 1 too
    excused = Alignment()(outputs(alignment=AlignedPairs(similarity, same)))
    apart = similarity.clone()
    apart[0, 1] = -1e4
    torch.testing.assert_close(
        excused, Alignment()(outputs(alignment=AlignedPairs(apart, torch.eye(3).bool())))
    )


def test_the_alignment_of_two_ranks_is_that_of_one_with_all_pairs():
    generator = torch.Generator().manual_seed(0)
    cosines, same = torch.randn(5, 5, generator=generator).tanh(), torch.eye(5).bool()
    same[0, 3] = same[4, 1] = True
    kept = same.clone()
    whole = Alignment()(outputs(alignment=AlignedPairs(cosines, same)))
    shares = []
    for own in (slice(0, 2), slice(2, 5)):
        pairs = AlignedPairs(cosines[own], same[own], cosines.T[own], same.T[own], own.start)
        shares.append(Alignment()(outputs(alignment=pairs)) * (own.stop - own.start))
    torch.testing.assert_close(sum(shares) / 5, whole)
    assert torch.equal(same, kept)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_no_number_above_zero_is_refused(value):
    with pytest.raises(ValueError, match=f"temperature must be above 0, got {value}"):
        Alignment(temperature=value)
