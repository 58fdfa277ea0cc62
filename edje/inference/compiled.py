"""An encoder's layers through torch.compile, one static shape at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

MOST_SHAPES = 512  # compiled forms that are kept: text lengths times sizes of batches
STEPS = 8  # static sizes between a power of two and the next, so that few pairs are padding


class CompiledLayers:
    """`run` as a compiled function; on CUDA each shape is replayed as a graph.

    Pairs are padded to one of a few sizes, so that a length of text has few shapes. Compiling one
    takes seconds to minutes: for a service or a large evaluation.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], device: torch.device):
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self.run = torch.compile(run, dynamic=False, fullgraph=True, mode=mode)

    def __call__(
        self, states: Float[Tensor, "pairs sequence width"]
    ) -> Float[Tensor, "pairs rows width"]:
        """What `run` gives; the states are copied, as a graph's next replay writes over them."""
        pairs = len(states)
        padded = F.pad(states, (0, 0, 0, 0, 0, static_size(pairs) - pairs))
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
            return self.run(padded)[:pairs].clone()


def static_size(pairs: int) -> int:
    """The least size of a batch that holds these pairs.

    >>> [static_size(pairs) for pairs in (1, 8, 9, 17, 100)]
    [1, 8, 9, 18, 104]
    """
    step = max((1 << (pairs - 1).bit_length()) // (2 * STEPS), 1)
    return -(-pairs // step) * step
