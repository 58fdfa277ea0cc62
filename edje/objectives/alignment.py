"""Alignment: words and visual tokens in one space before the joint encoder compares them."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


class Alignment(Objective):
    """Contrastive loss over the late interaction of a batch's captions and images.

    Every word, as it stands where the visual tokens join the text (`joint.fusion_layer`), looks
    for its nearest visual token; captions and images are matched by the mean of these cosines,
    within the batch of all ranks, in both directions. Aligning before fusing (ALBEF, Li et al.,
    2021) by tokens (FILIP, Yao et al., 2022): what the joint layers then have to compare lies side
    by side.

    With `joint.fusion_layer=0` words stand alone, so that bags of words are aligned; from layer 1
    on a word knows its neighbours, and the loss asks for bindings too.

    Args:
        temperature: divides the mean cosines before the softmax.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"alignment"})

    def __init__(self, *, weight: float = 1.0, temperature: float = 0.05):
        super().__init__(weight=weight)
        if temperature <= 0:
            raise ValueError(f"objective.alignment.temperature must be above 0, got {temperature}")
        self.temperature = temperature

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean of the two directions' cross-entropies, in nats; matches by chance are no rivals."""
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
        """What a softmax reads of each row's own pair, in column `first` on, and its rivals."""
        row = torch.arange(len(cosines), device=cosines.device)
        excused = same.clone()
        excused[row, row + first] = False
        return (cosines / self.temperature).masked_fill(excused, -torch.inf)
