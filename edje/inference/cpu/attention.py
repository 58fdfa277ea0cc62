"""Attention without a mask, by the kernel that is fastest on this machine."""

import logging
import math
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

AT_ONCE = (8, 16)  # pairs per thread: scores of few stay in its L2 cache, many need fewer calls
SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e30
TRIED = (AT_ONCE[-1], 83, 3 * 384)  # measured pairs, positions (for 64 tokens), widths
TRIED_HEADS = 12
TRIALS = 9
LOG2_E = math.log2(math.e)
CLEARLY = 1.15  # torch's kernel is more exact, so the products must be this much faster


def attention_for(device: torch.device, dtype: torch.dtype) -> Attention:
    """The kernel for such tensors; both kernels give the same result up to rounding."""
    if not prefers_products(device, dtype):
        return attend
    return partial(attend_by_products, at_once=faster_products())


def prefers_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether two batched products beat torch's kernel: only in bf16 on a CPU, if so measured."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and has_bf16_instructions()
        and faster_products() > 0
    )


@cache
def faster_products() -> int:
    """With how many pairs at once two products are faster than torch's kernel, 0 if with none.

    The result of a measurement of a tenth of a second, once per process. torch's kernel makes a
    small product per head, block of rows and pair. Without tiles (AMX) it is half as fast; with
    them, it has products of its own.
    """
    drawn = torch.Generator().manual_seed(0)  # on equal numbers torch's kernel is faster
    joined = torch.randn(TRIED, generator=drawn, dtype=torch.bfloat16, device="cpu")
    query, key, value = joined.chunk(3, dim=-1)  # views of one product's output, as in a layer
    ways = [
        *(partial(attend_by_products, query, key, value, TRIED_HEADS, n) for n in AT_ONCE),
        partial(attend, query, key, value, TRIED_HEADS),
    ]
    *ours, theirs = seconds_in_one_thread(ways, turns=TRIALS)
    fastest, at_once = min(zip(ours, AT_ONCE, strict=True))
    log.debug(
        "attention in bf16: %.2f ms with two products, %d pairs at once; %.2f with torch's kernel",
        1000 * fastest,
        at_once,
        1000 * theirs,
    )
    return at_once if CLEARLY * fastest < theirs else 0


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
    at_once: int = AT_ONCE[0],
) -> Float[Tensor, "pairs rows width"]:
    """The same as product, exponential and product, for `at_once` pairs per thread at a time."""
    mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    parts = (part.split(at_once * torch.get_num_threads()) for part in (query, key, value, mixed))
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
