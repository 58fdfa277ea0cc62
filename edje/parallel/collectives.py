"""The pairs of all ranks as one batch: what a rank must know of the others'.

On one rank every function gives back what it was given: no copy, no communication.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, distributed
from torch.nn import functional as F

from edje.objectives.negatives import matching_pairs
from edje.records import PairBatch, TextBatch


@dataclass(frozen=True)
class JoinedPairs:
    """The pairs of all ranks in rank order, without their tokens and texts.

    This rank's own are the rows from `first` on.
    """

    first: int
    sample_ids: Int[Tensor, "pairs"]
    image_ids: Int[Tensor, "pairs"]
    caption_keys: Int[Tensor, "pairs"]
    image_embeddings: Float[Tensor, "pairs embedding"]
    text_embeddings: Float[Tensor, "pairs embedding"]

    @classmethod
    def of(cls, batch: PairBatch) -> "JoinedPairs":
        """Gather what all ranks hold; batches are of equal size."""
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


def num_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """This process's place among them."""
    return distributed.get_rank() if _together() else 0


def joined(own: Shaped[Tensor, "own *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of all ranks in rank order, each rank's of the same shape.

    Differentiable: a rank's rows receive the gradients of the losses of all ranks, summed. With
    the mean over ranks that is taken of every parameter's gradient, training minimises the mean
    of the ranks' losses.
    """
    if num_ranks() == 1:
        return own
    if own.dtype == torch.bool:
        return _AllGather.apply(own.byte()).bool()
    return _AllGather.apply(own)


def join_first(tensor: Shaped[Tensor, "own *rest"], rows: int) -> Shaped[Tensor, "more *rest"]:
    """`tensor` with its first `rows` rows replaced by those of all ranks."""
    if num_ranks() == 1:
        return tensor
    return torch.cat([joined(tensor[:rows]), tensor[rows:]])


def mean_over_ranks(value: float | Tensor, device: torch.device) -> Float[Tensor, ""]:
    """The mean of a number over all ranks."""
    if isinstance(value, Tensor):
        mean = value.to(torch.float32, copy=True)
    else:  # filled in on the device: a copy to it would wait
        mean = torch.full((), float(value), device=device)
    if num_ranks() > 1:
        distributed.all_reduce(mean)
    return mean / num_ranks()


def to_common_length(batch: PairBatch) -> PairBatch:
    """The batch with its texts padded to the longest of all ranks."""
    if num_ranks() == 1:
        return batch
    ids, mask = batch.text.input_ids, batch.text.attention_mask
    longest = torch.full((), ids.shape[1], dtype=torch.long, device=ids.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    missing = int(longest) - ids.shape[1]
    text = TextBatch(F.pad(ids, (0, missing)), F.pad(mask, (0, missing)))
    return replace(batch, text=text)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' rows; the gradient of each rank's own is summed over all losses."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(num_ranks())]
        distributed.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(num_ranks())[rank()]
