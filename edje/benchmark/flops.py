"""How much arithmetic a call does, counted and not estimated."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edje.inference.cpu import packed_products


def count_flops(call: Callable[[], object]) -> int:
    """Multiplications and additions in the matrix products of a call, attention's included."""
    ours = dict.fromkeys(packed_products(), _of_packed_product)
    # The plain form of attention consists of products that the counter knows on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as seen:
        call()
    return seen.get_total_flops()


def _of_packed_product(states: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """A linear layer in oneDNN's layout, which the counter doesn't know."""
    return 2 * prod(out_shape) * states[-1]
