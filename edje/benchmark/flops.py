"""The amount of arithmetic in a call, counted rather than estimated."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edje.inference.cpu import packed_products


def count_flops(call: Callable[[], object]) -> int:
    """Multiplications and additions in a call's matrix products, including attention's."""
    ours = dict.fromkeys(packed_products(), _of_packed_product)
    # The plain form of attention consists of products that the counter supports on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=ours) as seen:
        call()
    return seen.get_total_flops()


def _of_packed_product(states: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """A linear layer in oneDNN's layout, which the counter doesn't support."""
    return 2 * prod(out_shape) * states[-1]
