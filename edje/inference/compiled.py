"""An encoder's layers under torch.compile, one static shape at a time."""

import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)
MOST_SHAPES = 512  # kept compiled forms: text lengths times batch sizes
STEPS = 8  # static sizes per power of two, so that padding is small


class CompiledLayers:
    """`run` as a compiled function; on CUDA each shape is replayed as a graph.

    Pairs are padded to one of a few sizes, so that each text length has few shapes. Compiling one
    shape takes seconds to minutes, which pays off for a service or a large evaluation. The first
    `most` shapes are compiled and kept. All others run uncompiled, so that a service doesn't run
    out of memory or spend its time compiling.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        most: int = MOST_SHAPES,
        backend: str = "inductor",
    ):
        graphs = backend == "inductor" and device.type == "cuda"
        self.run = run
        self.most = most
        self.backend = backend
        self.mode = "reduce-overhead" if graphs else None
        self.forms: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def __call__(
        self, states: Float[Tensor, "pairs sequence width"]
    ) -> Float[Tensor, "pairs rows width"]:
        """The output of `run`; copied, because a graph's next replay overwrites it."""
        pairs = len(states)
        shape = torch.Size((static_size(pairs), *states.shape[1:]))
        if shape not in self.forms and len(self.forms) >= self.most:
            return self.run(states)
        padded = F.pad(states, (0, 0, 0, 0, 0, shape[0] - pairs))
        return self._form(shape)(padded)[:pairs].clone()

    def _form(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        if shape not in self.forms:
            own = under_its_own_code(self.run, f"layers_{len(self.forms)}")
            self.forms[shape] = torch.compile(
                own, dynamic=False, fullgraph=True, backend=self.backend, mode=self.mode
            )
            if len(self.forms) == self.most:
                log.warning("%d shapes are compiled; all others run uncompiled", self.most)
        return self.forms[shape]


def under_its_own_code(run: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """`run` behind a code object of its own.

    torch counts compilations per code object, over the whole process and including scorers that
    no longer exist, and stops compiling beyond a limit.
    """
    caller: Any = _calling(run)
    code = caller.__code__.replace(co_name=name)
    return FunctionType(code, caller.__globals__, name, None, caller.__closure__)


def _calling(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda states: run(states)  # a lambda, import hooks don't decorate it


def static_size(pairs: int) -> int:
    """The smallest static batch size that holds these pairs.

    >>> [static_size(pairs) for pairs in (1, 8, 9, 17, 100)]
    [1, 8, 9, 18, 104]
    """
    step = max((1 << (pairs - 1).bit_length()) // (2 * STEPS), 1)
    return -(-pairs // step) * step
