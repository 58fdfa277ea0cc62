"""The pairs of all ranks as one batch: the data of others that a rank needs."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from edje.objectives.negatives import matching_pairs
from edje.parallel.collectives import joined, largest_of_ranks, num_ranks, rank
from edje.records import PairBatch, TextBatch


@dataclass(frozen=True)
class JoinedPairs:
    """The pairs of all ranks in rank order, without their tokens and texts.

    This rank's own pairs are the rows from `first` on.
    """

    first: int
    sample_ids: Int[Tensor, "pairs"]
    image_ids: Int[Tensor, "pairs"]
    caption_keys: Int[Tensor, "pairs"]
    image_embeddings: Float[Tensor, "pairs embedding"]
    text_embeddings: Float[Tensor, "pairs embedding"]

    @classmethod
    def of(cls, batch: PairBatch) -> "JoinedPairs":
        """Gather the pairs of all ranks; batches have equal size."""
        return cls(
            first=rank() * len(batch.sample_ids),
            sample_ids=joined(batch.sample_ids),
            image_ids=joined(batch.image_ids),
            caption_keys=joined(batch.caption_keys),
            image_embeddings=joined(batch.image_embeddings),
            text_embeddings=joined(batch.text_embeddings),
        )

    def same(self, own: slice) -> tuple[Bool[Tensor, "own pairs"], Bool[Tensor, "own pairs"]]:
        """Which images match the captions of the rows `own`, and which captions their images."""
        true = matching_pairs(self.image_ids, self.caption_keys)
        return true[own], true.T[own]


def to_common_length(batch: PairBatch) -> PairBatch:
    """The batch with its texts padded to the longest text of all ranks."""
    if num_ranks() == 1:
        return batch
    ids, mask = batch.text.input_ids, batch.text.attention_mask
    missing = largest_of_ranks(ids.shape[1], ids.device) - ids.shape[1]
    text = TextBatch(F.pad(ids, (0, missing)), F.pad(mask, (0, missing)))
    return replace(batch, text=text)
