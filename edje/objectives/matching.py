"""Matching: the positive pair against its mined negatives."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import (
    Objective,
    Part,
    Presence,
    StepOutputs,
    mean_of_negatives,
    mean_of_rows,
    without_absent,
)


class Matching(Objective):
    """Image-text matching over hard negatives, averaged over the two directions.

    `softmax` is the cross-entropy of the positive over [positive, negatives] (the released form);
    `binary` classifies each pair alone (the paper's wording), positives and negatives balanced.
    A sample without any negative in its batch doesn't count.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"pairs"})

    def __init__(self, *, weight: float = 1.0, form: Literal["softmax", "binary"] = "softmax"):
        super().__init__(weight=weight)
        self.form = form

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean of the two directions' losses, in nats."""
        pairs = outputs.pairs
        assert pairs is not None
        loss = self._softmax if self.form == "softmax" else self._binary
        t2i = loss(pairs.t2i, pairs.t2i_presence)
        return (t2i + loss(pairs.i2t, pairs.i2t_presence)) / 2

    @staticmethod
    def _softmax(logits: Tensor, presence: Presence | None) -> Tensor:
        targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        if presence is None:
            return F.cross_entropy(logits, targets)
        losses = F.cross_entropy(without_absent(logits, presence), targets, reduction="none")
        return mean_of_rows(losses, presence)

    @staticmethod
    def _binary(logits: Tensor, presence: Presence | None) -> Tensor:
        positive = mean_of_rows(F.softplus(-logits[:, 0]), presence)
        negative = mean_of_negatives(F.softplus(logits[:, 1:]), presence)
        return (positive + negative) / 2
