"""Alignment: words and visual tokens in one space before the joint encoder compares them."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


class Alignment(Objective):
    """Contrastive loss over the late interaction of a batch's captions and images.

    Every word's state, where the visual tokens join the text (`joint.fusion_layer`), is compared
    with all visual tokens, and its nearest one counts. Captions and images are matched by the mean
    of these cosines, within the batch of all ranks, in both directions. This is align before fuse
    (ALBEF, Li et al., 2021) by tokens (FILIP, Yao et al., 2022): the joint layers then compare
    words and tokens that are already aligned.

    With `joint.fusion_layer=0` words have no context, so only bags of words are aligned. From
    layer 1 on a word has context, and the loss also asks for bindings.

    Args:
        temperature: divides the mean cosines before the softmax.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"alignment"})

    def __init__(self, *, weight: float = 1.0, temperature: float = 0.05):
        super().__init__(weight=weight)
        if not 0 < temperature < math.inf:
            raise ValueError(f"objective.alignment.temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean of the two directions' cross-entropies, in nats; other matches aren't rivals."""
        aligned = outputs.alignment
        assert aligned is not None
        t2i = self._logits(aligned.t2i, aligned.same, aligned.first)
        if aligned.i2t is None:
            i2t = t2i.T
        else:
            assert aligned.same_i2t is not None
            i2t = self._logits(aligned.i2t, aligned.same_i2t, aligned.first)
        own = torch.arange(len(t2i), device=t2i.device) + aligned.first
        return (F.cross_entropy(t2i, own) + F.cross_entropy(i2t, own)) / 2

    def _logits(self, cosines: Tensor, same: Tensor, first: int) -> Tensor:
        """Softmax logits of each row's own pair (in columns from `first` on) and its rivals."""
        row = torch.arange(len(cosines), device=cosines.device)
        excused = same.clone()
        excused[row, row + first] = False
        return (cosines / self.temperature).masked_fill(excused, -torch.inf)
