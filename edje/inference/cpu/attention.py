"""Attention without a mask, by the kernel that is fastest on this machine."""

import logging
from collections.abc import Callable
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.inference.cpu.operators import has_bf16_instructions
from edje.inference.turns import seconds_in_one_thread

log = logging.getLogger(__name__)
Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # query, key, value, heads

PAIRS_AT_ONCE = 8  # so few that scores stay in a core's L2 cache between products
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30
TRIED = (2 * PAIRS_AT_ONCE, 83, 384)  # measured pairs, positions (for 64 tokens), width
TRIED_HEADS = 12
TRIALS = 9
CLEARLY = 1.15  # torch's kernel is more exact, so the products must be this much faster


def attention_for(device: torch.device, dtype: torch.dtype) -> Attention:
    """The kernel for such tensors; both kernels give the same result up to rounding."""
    return attend_by_products if prefers_products(device, dtype) else attend


def prefers_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two batched products beat torch's kernel: only in bf16 on a CPU, if so measured."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and has_bf16_instructions()
        and products_are_faster()
    )


@cache
def products_are_faster() -> bool:
    """The result of a measurement of a tenth of a second, once per process.

    torch's kernel makes a small product per head, block of rows and pair. Without tiles (AMX) it
    is half as fast; with them, it has products of its own.
    """
    query, key, value = torch.zeros((3, *TRIED), dtype=torch.bfloat16, device="cpu")
    ways = [partial(way, query, key, value, TRIED_HEADS) for way in (attend_by_products, attend)]
    ours, theirs = seconds_in_one_thread(ways, turns=TRIALS)
    log.debug(
        "attention in bf16: %.2f ms with two products, %.2f with torch's kernel",
        1000 * ours,
        1000 * theirs,
    )
    return CLEARLY * ours < theirs


def attend(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """Softmax attention of all heads by torch; every row attends to the whole sequence."""
    query, key, value = (_by_head(part, heads) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def attend_by_products(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """The same as product, exponential and product, for a few pairs at a time."""
    mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    parts = (part.split(PAIRS_AT_ONCE) for part in (query, key, value, mixed))
    for some in zip(*parts, strict=True):
        some_query, some_key, some_value, output = (_by_head(part, heads) for part in some)
        _attend_by_products(some_query, some_key, some_value, output)
    return mixed


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
    """Attention of `(pairs, heads, rows, width of a head)`, written to `output`.

    The largest score of each row isn't subtracted before the exponential, because that would take
    as long as all the rest. The softmax is the same unless a row's sum leaves the range of the
    number format; torch's kernel handles that case.
    """
    rows, keys = query.shape[2], key.shape[2]
    flat_query, flat_key, flat_value = (part.flatten(0, 1) for part in (query, key, value))
    weights = query.new_empty(len(flat_query), rows, keys)
    torch.baddbmm(
        weights,
        flat_query,
        flat_key.transpose(1, 2),
        beta=0,
        alpha=query.shape[3] ** -0.5,
        out=weights,
    )
    sums = weights.exp_().sum(dim=2, keepdim=True)
    least, most = (extreme.item() for extreme in sums.aminmax())
    if least > SMALLEST_SUM and most < LARGEST_SUM:
        mixed = torch.bmm(weights, flat_value)
        torch.div(mixed.view(output.shape), sums.view(*output.shape[:3], 1), out=output)
    else:
        output.copy_(F.scaled_dot_product_attention(query, key, value))


def _by_head(states: Tensor, heads: int) -> Tensor:
    """A view of shape (pairs, heads, rows, width of a head)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)
