"""Numbers that a step must know about its batch: the only place where it waits for its device."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edje.objectives.negatives import Negatives
from edje.parallel.collectives import joined
from edje.records import TextBatch


@dataclass(frozen=True)
class StepCounts:
    """Numbers that decide sizes and branches of a step, so that the rest needs no look at data.

    A GPU works asynchronously until the program asks for a result. So a step asks once, before it
    launches any heavy work.
    """

    missing_images: int  # of the negatives of all ranks' pairs
    missing_captions: int
    masked: int  # masked word pieces of this rank
    shortest: int  # of the shortest text of all ranks, with [CLS] and [SEP]

    @classmethod
    def of(
        cls,
        negatives: Negatives | None,
        mask: Bool[Tensor, "batch length"] | None,
        text: TextBatch,
    ) -> "StepCounts":
        """Count, and wait for the numbers.

        Args:
            negatives: negatives for all ranks' pairs.
            mask: positions of this rank's words to mask.
            text: this rank's texts.
        """
        lengths = joined(text.attention_mask.sum(dim=1))
        none = lengths.new_zeros(2)
        missing = none if negatives is None else negatives.missing
        masked = none[0] if mask is None else mask.sum()
        return cls(*torch.stack([*missing, masked, lengths.min()]).tolist())

    def padded(self, text: Int[Tensor, "batch length"]) -> bool:
        """Whether some rank has a text shorter than this length, cut or not."""
        return self.shortest < text.shape[1]


def places_of(mask: Bool[Tensor, "batch length"], count: int) -> Int[Tensor, "count"]:
    """Indices where a flattened mask is true, in order; with a known count it needn't wait."""
    until = mask.flatten().cumsum(0)
    return torch.searchsorted(until, torch.arange(1, count + 1, device=mask.device))
