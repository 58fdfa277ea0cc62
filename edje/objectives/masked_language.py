"""Masked language: predict the masked words from the image and the other words."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.outputs import Objective, Part, StepOutputs


class MaskedLanguage(Objective):
    """Cross-entropy of the masked word pieces, given the matching image's visual tokens.

    `probability` is each caption token's chance to become [MASK] (0.5 in EDJE). Special and
    visual tokens are never masked.
    """

    needs: ClassVar[frozenset[Part]] = frozenset({"masked"})

    def __init__(self, *, weight: float = 1.0, probability: float = 0.5):
        super().__init__(weight=weight)
        if not 0 <= probability <= 1:
            raise ValueError(f"probability={probability}: expected from 0 to 1")
        self.probability = probability

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """Mean over the masked positions, in nats; zero if nothing was masked.

        Every position has the same weight, on whichever rank it is.
        """
        masked = outputs.masked
        assert masked is not None
        total = F.cross_entropy(masked.logits.float(), masked.labels, reduction="sum")
        if masked.count is None:
            return total / max(len(masked.labels), 1)
        return total / masked.count.clamp(min=1e-3)  # zero if no rank has any
