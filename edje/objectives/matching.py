"""Matching: the positive pair against its mined negatives."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


class Matching(Objective):
    """Image-text matching over hard negatives, averaged over the two directions.

    `softmax` is the cross-entropy of the positive over [positive, negatives] (the released form);
    `binary` classifies each pair alone (the paper's wording), positives and negatives balanced.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"pairs"})

    def __init__(self, *, weight: float = 1.0, form: Literal["softmax", "binary"] = "softmax"):
        super().__init__(weight=weight)
        self.form = form

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean of the two directions' losses, in nats."""
        assert outputs.t2i_logits is not None and outputs.i2t_logits is not None
        loss = self._softmax if self.form == "softmax" else self._binary
        return (loss(outputs.t2i_logits) + loss(outputs.i2t_logits)) / 2

    @staticmethod
    def _softmax(logits: Tensor) -> Tensor:
        targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits, targets)

    @staticmethod
    def _binary(logits: Tensor) -> Tensor:
        positive = F.softplus(-logits[:, 0]).mean()
        negative = F.softplus(logits[:, 1:]).mean()
        return (positive + negative) / 2
