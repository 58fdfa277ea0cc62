"""Communication between ranks: gathering rows, averaging over ranks.

On one rank every function returns its input: no copy, no communication.
"""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed


def num_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _together() else 1


def rank() -> int:
    """This process's index among them."""
    return distributed.get_rank() if _together() else 0


def joined(own: Shaped[Tensor, "own *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The rows of all ranks in rank order, each rank's of the same shape.

    Differentiable: a rank's rows receive the gradients of the losses of all ranks, summed. Each
    parameter's gradient is then averaged over ranks, so training minimises the mean of the ranks'
    losses.
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
    else:  # filled in on the device, because a copy would block
        mean = torch.full((), float(value), device=device)
    if num_ranks() > 1:
        distributed.all_reduce(mean)
    return mean / num_ranks()


def largest_of_ranks(value: int, device: torch.device) -> int:
    """The maximum over ranks of each rank's number."""
    largest = torch.full((), value, dtype=torch.long, device=device)
    if num_ranks() > 1:
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def of_every_rank(value: str) -> list[str]:
    """The texts of all ranks, in rank order."""
    if num_ranks() == 1:
        return [value]
    found = [""] * num_ranks()
    distributed.all_gather_object(found, value)
    return found


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' rows; the gradient of each rank's rows is summed over all losses."""

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
