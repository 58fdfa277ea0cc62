"""Attention without a mask, by the kernel that is fastest where it runs."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PAIRS_AT_ONCE = 8  # whose scores stay in a core's second cache between the products
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30


def attend(
    query: Float[Tensor, "pairs rows width"],
    key: Float[Tensor, "pairs sequence width"],
    value: Float[Tensor, "pairs sequence width"],
    heads: int,
) -> Float[Tensor, "pairs rows width"]:
    """Softmax attention of all heads; every row attends to the whole sequence."""
    if not prefers_products(query.device, query.dtype):
        query, key, value = (_by_head(part, heads) for part in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    parts = (part.split(PAIRS_AT_ONCE) for part in (query, key, value, mixed))
    for some in zip(*parts, strict=True):
        some_query, some_key, some_value, output = (_by_head(part, heads) for part in some)
        _attend_by_products(some_query, some_key, some_value, output)
    return mixed


def prefers_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two batched products beat torch's own kernel: in bf16 on a CPU without tiles.

    There that kernel makes a small product per head, block of rows and pair. With tiles (AMX) it
    has products of its own, which were not measured.
    """
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and bool(torch.cpu._is_avx512_bf16_supported())
        and not torch.cpu._is_amx_tile_supported()
    )


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> None:
    """Attention of `(pairs, heads, rows, width of a head)`, written to `output`.

    The exponentials are taken as they are, without the largest score of each row subtracted
    first, which would take as long as all the rest. That is the same softmax unless a row's sum
    leaves the range of the number format; torch's kernel then does it.
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
