"""What a machine can do at most, measured: a large matrix product and a large copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edje.benchmark.timing import timed_together
from edje.inference.dense import Dense

SIDE = {"cpu": 1536, "cuda": 8192}  # of the square matrices
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}


@dataclass(frozen=True)
class Ceiling:
    """Medians of a machine's two ceilings."""

    flops_per_second: float
    copied_bytes_per_second: float  # read and written bytes are counted once


def ceiling_of(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Ceiling:
    """Measure both in the number format that the lanes use.

    The product is torch's own or that of the scorer's linear layers, whichever is faster: on some
    CPUs they are different libraries.
    """
    side = SIDE.get(device.type, 2048)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    linear = nn.Linear(side, side, device=device).requires_grad_(False)
    scorers = Dense([linear], dtype)
    source = torch.zeros(COPIED_BYTES.get(device.type, 2**28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timings = timed_together(
        {
            "product": lambda: left @ right,
            "linear": lambda: scorers(left),
            "copy": lambda: target.copy_(source),
        },
        device,
        warmup=2,
        min_runs=5,
        seconds=seconds,
        clock=clock,
    )
    return Ceiling(
        flops_per_second=2 * side**3 / min(timings[name].median for name in ("product", "linear")),
        copied_bytes_per_second=len(source) / timings["copy"].median,
    )
