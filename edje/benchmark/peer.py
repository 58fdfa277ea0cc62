"""What the peers have in common: a batch size, the given one or the fastest here."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import CLOCKS
from edje.inference.batch_size import calibrated

SIZES = (16, 32, 64)  # tried besides k


class Peer(ABC):
    """One query with k candidates, `batch_size` of them at a time.

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
