"""What a machine can do at most, measured: a large matrix product and large copies."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from edje.benchmark.entry import name_of_dtype
from edje.benchmark.timing import Timing, timed_together
from edje.inference.cpu import Dense

SIDE = {"cpu": 1536, "cuda": 8192}  # of the square matrices
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}
SENT_BYTES = 2**28  # from the host's memory to a GPU's


@dataclass(frozen=True)
class Ceiling:
    """Medians of a machine's ceilings."""

    flops_per_second: float
    copied_bytes_per_second: float  # read and written bytes are counted once
    sent_bytes_per_second: float  # from pinned host memory; on a CPU those copied


class CeilingCalls:
    """The calls by whose times the ceilings are known, to be timed in turns with other calls.

    The product is torch's own or that of the scorer's linear layers, whichever is faster: on some
    CPUs they are different libraries.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.side = SIDE.get(device.type, 2048)
        left, right = (
            torch.randn(self.side, self.side, device=device, dtype=dtype) for _ in range(2)
        )
        linear = nn.Linear(self.side, self.side, device=device).requires_grad_(False)
        scorers = Dense([linear], dtype)
        self.copied = COPIED_BYTES.get(device.type, 2**28)
        source = torch.zeros(self.copied, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        self.prefix = f"ceiling {name_of_dtype(dtype)} "
        self.calls: dict[str, Callable[[], object]] = {
            f"{self.prefix}product": lambda: left @ right,
            f"{self.prefix}linear": lambda: scorers(left),
            f"{self.prefix}copy": lambda: target.copy_(source),
        }
        if device.type == "cuda":
            host = torch.zeros(SENT_BYTES, dtype=torch.uint8, pin_memory=True)
            sent = torch.empty(SENT_BYTES, dtype=torch.uint8, device=device)
            self.calls[f"{self.prefix}send"] = lambda: sent.copy_(host, non_blocking=True)

    def ceiling(self, timings: Mapping[str, Timing]) -> Ceiling:
        """What the times of these calls, found among others, say."""
        seconds = {name.removeprefix(self.prefix): timings[name].median for name in self.calls}
        copied = self.copied / seconds["copy"]
        sent = SENT_BYTES / seconds["send"] if "send" in seconds else copied
        fastest = min(seconds["product"], seconds["linear"])
        return Ceiling(2 * self.side**3 / fastest, copied, sent)


def ceiling_of(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Ceiling:
    """Measure them alone, in the number format that the lanes use."""
    calls = CeilingCalls(device, dtype)
    timings = timed_together(
        calls.calls, device, warmup=2, min_runs=5, seconds=seconds, clock=clock
    )
    return calls.ceiling(timings)
