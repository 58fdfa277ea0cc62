"""What is measured: one lane and tier in one setting, and what peers have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS
from edje.inference.batch_size import calibrated

SCORER: Final = "scorer"  # the tier of every lane: scoring alone, its input on the device
SIZES = (16, 32, 64)  # of a peer's batch, tried besides k


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


class Peer(ABC):
    """Another method on one query with k candidates, `batch_size` of them at a time.

    Without a given size the first call times a few by our scorer's measure, and keeps the fastest
    per pair.
    """

    def __init__(self, sizes: Benchmark, k: int, device: torch.device):
        self.k, self.device = k, device
        self.clock = CLOCKS[sizes.clock]
        self.batch_size = None if sizes.batch_size is None else min(sizes.batch_size, k)

    @abstractmethod
    def scores(self, pairs: int, batch_size: int) -> Tensor:
        """Scores of the first candidates, on the CPU."""

    def __call__(self) -> Tensor:
        """Scores of the candidates."""
        return self.scores(self.k, self.batch())

    def batch(self) -> int:
        """Candidates at a time."""
        if self.batch_size is None:
            tried = [*(size for size in SIZES if size < self.k), self.k]
            self.batch_size = tried[0]
            if len(tried) > 1:
                self.batch_size = calibrated(
                    lambda size: self.scores(size, size), tried, self.device, self.clock
                )
        return self.batch_size


def name_of_dtype(dtype: torch.dtype) -> str:
    """The dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")
