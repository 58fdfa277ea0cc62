"""An encoder's layers through torch.compile, one static shape at a time."""

import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)
MOST_SHAPES = 512  # compiled forms that are kept: text lengths times sizes of batches
STEPS = 8  # static sizes between a power of two and the next, so that few pairs are padding


class CompiledLayers:
    """`run` as a compiled function; on CUDA each shape is replayed as a graph.

    Pairs are padded to one of a few sizes, so that a length of text has few shapes. Compiling one
    takes seconds to minutes: for a service or a large evaluation. The first `most` shapes get a
    compiled form, which stays; any other runs as it is, so that a service neither ends nor spends
    its time compiling.
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
        """What `run` gives; the states are copied, as a graph's next replay writes over them."""
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
                log.warning("%d shapes are compiled; any other runs uncompiled", self.most)
        return self.forms[shape]


def under_its_own_code(run: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """`run` behind a code object that nothing else has.

    torch counts what it has compiled by code object, in the whole process and of scorers that are
    gone too, and gives up beyond a limit.
    """
    caller: Any = _calling(run)
    code = caller.__code__.replace(co_name=name)
    return FunctionType(code, caller.__globals__, name, None, caller.__closure__)


def _calling(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda states: run(states)  # a lambda, which no import hook decorates


def static_size(pairs: int) -> int:
    """The least size of a batch that holds these pairs.

    >>> [static_size(pairs) for pairs in (1, 8, 9, 17, 100)]
    [1, 8, 9, 18, 104]
    """
    step = max((1 << (pairs - 1).bit_length()) // (2 * STEPS), 1)
    return -(-pairs // step) * step
