"""What a machine can do at most, measured: matrix products and large copies.

A ceiling is the fastest rate seen, as slower runs don't show what is possible. Rates come from a
large square product, products in the scorer's shapes, and the measured calls themselves.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from edje.benchmark.timing import timed_together
from edje.inference.cpu import Dense, int8_product
from edje.inference.turns import synchronise

SIDE = {"cpu": 1536, "cuda": 8192}  # of the square matrices
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**31}
SENT_BYTES = 2**28  # from the host's memory to a GPU's
SHORTEST = 1e-9  # seconds, used if a clock has not moved

Call = Callable[[], object]
Works = dict[str, tuple[int, Call]]  # by name: a number of operations or bytes, and its call


class Shape(NamedTuple):
    """The shape of a matrix product."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Ceiling:
    """The fastest rates seen on a machine, products in one number format."""

    flops_per_second: float
    copied_bytes_per_second: float  # read and written bytes are counted once
    sent_bytes_per_second: float  # from pinned host memory; on a CPU the copied bytes

    def at_least(self, flops: float, read: float = 0.0, sent: float = 0.0) -> "Ceiling":
        """The ceiling raised to a call's rates per second; nothing of `read` is written back."""
        return replace(
            self,
            flops_per_second=max(self.flops_per_second, flops),
            copied_bytes_per_second=max(self.copied_bytes_per_second, read / 2),
            sent_bytes_per_second=max(self.sent_bytes_per_second, sent),
        )


class Ceilings:
    """Products in several number formats, and copies: one call, to take turns with others.

    A product is run by torch and by the scorer's linear layers: on some CPUs these use different
    libraries. In int8 only the scorer's runs. `shapes` are measured beside the large square.
    """

    def __init__(
        self,
        device: torch.device,
        dtypes: Iterable[torch.dtype],
        shapes: Sequence[Shape] = (),
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.device, self.clock = device, clock
        side = SIDE.get(device.type, 2048)
        self.products: dict[torch.dtype, Works] = {
            dtype: {
                f"{dtype} {shape} {kind}": (shape.flops, call)
                for shape in dict.fromkeys([Shape(side, side, side), *shapes])
                for kind, call in _products(shape, device, dtype).items()
            }
            for dtype in dict.fromkeys(dtypes)
        }
        self.copies = _copies(device)
        self.best: dict[str, float] = {}

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run each once."""
        for works in (*self.products.values(), self.copies):
            for name, (_, call) in works.items():
                synchronise(self.device)
                started = self.clock()
                call()
                synchronise(self.device)
                seconds = max(self.clock() - started, SHORTEST)
                self.best[name] = min(self.best.get(name, seconds), seconds)

    def __getitem__(self, dtype: torch.dtype) -> Ceiling:
        """The ceiling seen in the runs so far."""
        copied = self._fastest({"copy": self.copies["copy"]})
        sent = self._fastest({"send": self.copies["send"]}) if "send" in self.copies else copied
        return Ceiling(self._fastest(self.products[dtype]), copied, sent)

    def _fastest(self, works: Works) -> float:
        return max(work / self.best[name] for name, (work, _) in works.items())


def ceiling_of(
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Ceiling:
    """Measure a ceiling alone, before there are calls to take turns with."""
    ceilings = Ceilings(device, [dtype], clock=clock)
    calls = {"ceilings": ceilings}
    timed_together(calls, device, warmup=1, min_runs=3, seconds=seconds, clock=clock)
    return ceilings[dtype]


def _products(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Call]:
    """Calls that compute one product, by library."""
    if dtype == torch.int8:
        return {"scorer's": int8_product(*shape)}
    rows, inputs, outputs = shape
    left = torch.randn(rows, inputs, device=device, dtype=dtype)
    right = torch.randn(inputs, outputs, device=device, dtype=dtype)
    linear = nn.Linear(inputs, outputs, device=device).requires_grad_(False)
    scorers = Dense([linear], dtype)
    return {"torch's": lambda: left @ right, "scorer's": lambda: scorers(left)}


def _copies(device: torch.device) -> Works:
    """Copies of memory on the device, and to it."""
    size = COPIED_BYTES.get(device.type, 2**28)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls: Works = {"copy": (size, lambda: target.copy_(source))}
    if device.type == "cuda":
        host = torch.zeros(SENT_BYTES, dtype=torch.uint8, pin_memory=True)
        sent = torch.empty(SENT_BYTES, dtype=torch.uint8, device=device)
        calls["send"] = (SENT_BYTES, lambda: sent.copy_(host, non_blocking=True))
    return calls
