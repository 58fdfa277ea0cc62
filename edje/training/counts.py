"""What a step must know of its batch as numbers: the one place where it waits for its device."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edje.objectives.negatives import Negatives
from edje.parallel.collectives import joined
from edje.records import TextBatch


@dataclass(frozen=True)
class StepCounts:
    """Numbers on which sizes and branches of a step depend, so that the rest needs no look at data.

    A GPU works behind the program that gives it its work, until the program asks for a result.
    So a step asks once, before it gives any heavy work.
    """

    missing_images: int  # of the negatives of all ranks' pairs
    missing_captions: int
    masked: int  # word pieces of this rank
    shortest: int  # word pieces of the shortest text of all ranks, [CLS] and [SEP] included

    @classmethod
    def of(
        cls,
        negatives: Negatives | None,
        mask: Bool[Tensor, "batch length"] | None,
        text: TextBatch,
    ) -> "StepCounts":
        """Count, and wait for the numbers.

        Args:
            negatives: those of all ranks' pairs.
            mask: positions of this rank's words to be masked.
            text: this rank's texts.
        """
        lengths = joined(text.attention_mask.sum(dim=1))
        none = lengths.new_zeros(2)
        missing = none if negatives is None else negatives.missing
        masked = none[0] if mask is None else mask.sum()
        return cls(*torch.stack([*missing, masked, lengths.min()]).tolist())

    def padded(self, text: Int[Tensor, "batch length"]) -> bool:
        """Whether a text of some rank is shorter than these, cut or not."""
        return self.shortest < text.shape[1]


def places_of(mask: Bool[Tensor, "batch length"], count: int) -> Int[Tensor, "count"]:
    """Where a flattened mask is true, in order; told how often, it waits for nothing."""
    until = mask.flatten().cumsum(0)
    return torch.searchsorted(until, torch.arange(1, count + 1, device=mask.device))
