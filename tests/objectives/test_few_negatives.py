"""Batches that hold fewer negatives than asked for: what isn't there is read by no objective."""

import math

import pytest
import torch
from torch.nn import functional as F

from edje.objectives.distillation import Distillation
from edje.objectives.matching import Matching
from edje.objectives.outputs import PairLogits, Presence, StepOutputs

# Row 0 has both negatives, row 1 the first, row 2 none.
FOUND = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
PRESENCE = Presence(FOUND, rows=torch.tensor(2.0), negatives=torch.tensor(3.0))
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.5, 9.0], [-3.0, 9.0, 9.0]])
TEACHER = torch.tensor([[1.0, -1.0, 0.0], [0.75, 0.0, 7.0], [2.0, 7.0, 7.0]])


def outputs(logits=LOGITS, teacher=TEACHER, presence=PRESENCE) -> StepOutputs:
    return StepOutputs(
        pairs=PairLogits(logits, logits, presence, presence),
        teacher=PairLogits(teacher, teacher),
    )


def bce(logit: float, target: float) -> float:
    chance = 1 / (1 + math.exp(-target))
    return math.log1p(math.exp(logit)) - chance * logit


def kl(student: list[float], teacher: list[float]) -> float:
    p, q = torch.tensor(teacher).log_softmax(0), torch.tensor(student).log_softmax(0)
    return float((p.exp() * (p - q)).sum())


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def test_softmax_matching_is_the_mean_over_rows_with_a_negative():
    expected = (math.log(1 + math.exp(-2) + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert Matching()(outputs()).item() == pytest.approx(expected, rel=1e-6)


def test_binary_matching_balances_positives_and_negatives_that_are_there():
    positives = (softplus(-2) + softplus(-0.5)) / 2
    negatives = (softplus(0) + softplus(1) + softplus(1.5)) / 3
    loss = Matching(form="binary")(outputs()).item()
    assert loss == pytest.approx((positives + negatives) / 2, rel=1e-6)


def test_binary_distillation_reads_every_positive_and_the_negatives_that_are_there():
    positives = (bce(2, 1) + bce(0.5, 0.75) + bce(-3, 2)) / 3
    negatives = (bce(0, -1) + bce(1, 0) + bce(1.5, 0)) / 3
    loss = Distillation()(outputs()).item()
    assert loss == pytest.approx((positives + 2 * negatives) / 3, rel=1e-5)


def test_listwise_distillation_compares_what_is_there():
    expected = (kl([2.0, 0.0, 1.0], [1.0, -1.0, 0.0]) + kl([0.5, 1.5], [0.75, 0.0])) / 2
    loss = Distillation(form="listwise")(outputs()).item()
    assert loss == pytest.approx(expected, rel=1e-5)


OBJECTIVES = [
    Matching(),
    Matching(form="binary"),
    Distillation(),
    Distillation(form="listwise"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.form}")
def test_what_is_not_there_gets_no_gradient_and_all_are_finite(objective):
    logits = LOGITS.clone().requires_grad_()
    objective(outputs(logits)).backward()
    gradient = logits.grad
    assert gradient.isfinite().all() and gradient[~FOUND].abs().max() == 0
    assert (gradient[FOUND][:5] != 0).all()
    if isinstance(objective, Matching):
        assert gradient[2].abs().max() == 0  # nothing to tell its positive from


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.form}")
def test_a_presence_of_everything_changes_nothing(objective):
    everything = Presence(torch.ones(3, 3).bool(), torch.tensor(3.0), torch.tensor(6.0))
    torch.testing.assert_close(
        objective(outputs(presence=everything)), objective(outputs(presence=None))
    )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.form}")
def test_without_any_negative_nothing_is_asked_and_nothing_breaks(objective):
    alone = Presence(F.pad(torch.zeros(3, 2).bool(), (1, 0), value=True), *torch.zeros(2))
    logits = LOGITS.clone().requires_grad_()
    loss = objective(outputs(logits, presence=alone))
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    if not (isinstance(objective, Distillation) and objective.form == "binary"):
        assert loss.item() == 0 and logits.grad.abs().max() == 0
