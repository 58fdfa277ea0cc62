"""What is measured: one lane and tier in one setting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SCORER: Final = "scorer"  # the tier that every lane has: scoring alone, its input on the device


@dataclass(frozen=True)
class Entry:
    """One query with k candidates on one road.

    Args:
        tokens: visual tokens per image, or what stands for them.
        batch: pairs per run of an encoder, asked after the warm-up.
        dtype: number format of the products, of whose ceiling its share is.
        bytes_per_query: of visual tokens, read from host memory or a file.
        prepare: done before each run and not timed.
    """

    lane: str
    tier: str
    tokens: int
    k: int
    call: Callable[[], Tensor]
    batch: Callable[[], int]
    dtype: torch.dtype
    bytes_per_query: int = 0
    prepare: Callable[[], object] | None = None


def name_of_dtype(dtype: torch.dtype) -> str:
    """As torch calls it, without torch's own name."""
    return str(dtype).removeprefix("torch.")
