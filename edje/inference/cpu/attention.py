"""Attention without a mask, by the kernel that is fastest on this machine."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.inference.cpu.operators import has_bf16_instructions, has_tiles

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # query, key, value, heads

# Per thread at once: scores of few pairs stay in its L2 cache, many need fewer calls.
PAIRS_AT_ONCE, BYTES_AT_ONCE = 12, 2**23
LONGEST_WITH_TILES = 200  # positions; torch's kernel is faster beyond
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30
LOG2_E = math.log2(math.e)


def attention_for(device: torch.device, dtype: torch.dtype) -> Attention:
    """The kernel for such tensors; all give the same result up to rounding."""
    if not prefers_products(device, dtype):
        return attend
    return attend_short_by_products if has_tiles() else attend_by_products


def prefers_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two batched products beat torch's kernel: in bf16 on a CPU with instructions for it.

    A measurement here would decide otherwise on a busy machine, and two processes that share an
    index would round differently. It was made once (`experiments/speed`): with 83 positions they
    are 1.8 times as fast, and 1.25 times with tiles (AMX), for which torch's kernel has products of
    its own.
    """
    return device.type == "cpu" and dtype == torch.bfloat16 and has_bf16_instructions()


def attend(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """Softmax attention of all heads by torch; every row attends to the whole sequence."""
    query, key, value = (_by_head(part, heads) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def attend_short_by_products(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """The same: short sequences by products, long ones by torch."""
    way = attend_by_products if key.shape[1] <= LONGEST_WITH_TILES else attend
    return way(query, key, value, heads)


def attend_by_products(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """The same as product, exponential and product, for a few pairs at a time."""
    mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    bytes_per_pair = heads * query.shape[1] * key.shape[1] * query.element_size()
    at_once = min(PAIRS_AT_ONCE, BYTES_AT_ONCE // bytes_per_pair) or 1
    at_once *= torch.get_num_threads()
    parts = (part.split(at_once) for part in (query, key, value, mixed))
    for some in zip(*parts, strict=True):
        some_query, some_key, some_value, output = (_by_head(part, heads) for part in some)
        _attend_by_products(some_query, some_key, some_value, output)
    return mixed


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
    """Attention of `(pairs, heads, rows, width of a head)`, written to `output`.

    The exponential is one to the base 2, the cheaper one; its factor is in the first product.
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
        alpha=LOG2_E * query.shape[3] ** -0.5,
        out=weights,
    )
    sums = weights.exp2_().sum(dim=2, keepdim=True)
    least, most = (extreme.item() for extreme in sums.aminmax())
    if least > SMALLEST_SUM and most < LARGEST_SUM:
        mixed = torch.bmm(weights, flat_value)
        torch.div(mixed.view(output.shape), sums.view(*output.shape[:3], 1), out=output)
    else:
        output.copy_(F.scaled_dot_product_attention(query, key, value))


def _by_head(states: Tensor, heads: int) -> Tensor:
    """A view of shape (pairs, heads, rows, width of a head)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)
