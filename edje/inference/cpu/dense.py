"""A linear layer for inference, its weights laid out for the processor once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from edje.inference.cpu import operators

Activation = Callable[[Tensor], Tensor]


class Dense:
    """`activation(x W^T + b)` with weights copied in one number format.

    On a CPU with oneDNN the weights are kept in its blocked layout, and an exact GELU is fused
    into the product: the same sums, without reordering the weights in every call. Elsewhere it is
    torch's linear layer.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        dtype: torch.dtype,
        activation: Activation | None = None,
        pack: bool = True,
    ):
        """The linear layers stacked into one; their outputs are concatenated.

        Without `pack` it is torch's linear layer everywhere, which torch.compile can trace.
        """
        self.linears = tuple(linears)
        parts = [(linear.weight, linear.bias) for linear in linears]
        self.weight = torch.cat([weight.detach() for weight, _ in parts]).to(dtype)
        self.bias = torch.cat([bias.detach() for _, bias in parts]).to(dtype)
        self.activation = activation
        on_cpu = self.weight.device.type == "cpu"
        self.is_packed = pack and on_cpu and operators.can_pack(dtype)
        self.fuses = self.is_packed and is_exact_gelu(activation)
        if self.is_packed:
            self.weight = operators.pack(self.weight)

    def __call__(self, states: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The layer's outputs, activated."""
        if self.is_packed:
            hidden = operators.packed_linear(states, self.weight, self.bias, self.fuses)
        else:
            hidden = F.linear(states, self.weight, self.bias)
        return hidden if self.activation is None or self.fuses else self.activation(hidden)


def is_exact_gelu(activation: Activation | None) -> bool:
    """Whether an activation is the exact GELU (error function), not an approximation."""
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return activation is F.gelu or getattr(activation, "act", None) is F.gelu
