"""What is measured: one lane and tier in one setting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

SCORER: Final = "scorer"  # the tier of every lane: scoring alone, its input on the device


@dataclass(frozen=True)
class Entry:
    """One query with k candidates in one lane and tier.

    Args:
        tokens: visual tokens per image, or what replaces them.
        batch: pairs per run of an encoder; called after the warm-up.
        dtype: number format of the products; the share refers to its ceiling.
        bytes_per_query: of visual tokens, read from host memory or a file.
        prepare: called before each run, not timed.
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
    """The dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")
