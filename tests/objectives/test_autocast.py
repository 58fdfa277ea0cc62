"""Objectives are computed in float32, whatever the precision of the step they belong to."""

from dataclasses import fields, replace
from typing import get_args

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
    Part,
    Presence,
    RecoveredText,
    StepOutputs,
)
from edje.objectives.text_recovery import TextRecovery

OBJECTIVES = [
    Matching(),
    Matching(form="binary"),
    Distillation(),
    Distillation(form="listwise"),
    MaskedLanguage(),
    TextRecovery(),
    Alignment(),
]


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(presence: Presence | None) -> StepOutputs:
    return StepOutputs(
        pairs=PairLogits(drawn(6, 4, seed=0), drawn(6, 4, seed=1), presence, presence),
        # in half precision, as the heads give them
        masked=MaskedWords(drawn(9, 20, seed=2).bfloat16(), torch.arange(9)),
        text_only=RecoveredText(
            drawn(6, 12, seed=3).bfloat16(), F.normalize(drawn(6, 12, seed=4), dim=1)
        ),
        alignment=AlignedPairs(drawn(6, 6, seed=5).tanh(), torch.eye(6).bool()),
        teacher=PairLogits(drawn(6, 4, seed=6), drawn(6, 4, seed=7)),
    )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("few", [False, True])
def test_an_objective_under_autocast_is_the_same_to_the_bit(objective, few):
    found = torch.arange(24).view(6, 4) % 5 < 4
    found[:, 0] = True
    rows, negatives = found[:, 1:].any(1).sum().float(), found[:, 1:].sum().float()
    given = outputs(Presence(found, rows, negatives) if few else None)
    expected = objective(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = objective(given)
    assert value.dtype == torch.float32 and torch.equal(value, expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_an_objective_reads_the_parts_that_it_names_and_no_others(objective):
    whole = outputs(None)
    assert {field.name for field in fields(whole)} == set(get_args(Part))
    named = StepOutputs(**{part: getattr(whole, part) for part in objective.needs})
    assert torch.equal(objective(named), objective(whole))
    for part in objective.needs:
        with pytest.raises(AssertionError):
            objective(replace(named, **{part: None}))
