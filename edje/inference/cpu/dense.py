"""A linear layer for inference, its weights laid out for the processor once."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


class Dense:
    """`activation(x W^T + b)` with weights copied in one number format.

    On a CPU with oneDNN the weights are kept in its blocked layout and an exact GELU is part of
    the product: the same sums without reordering the weights in every call. Elsewhere it is
    torch's linear.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        dtype: torch.dtype,
        activation: Activation | None = None,
        pack: bool = True,
    ):
        """The linear layers stacked to one; their results lie side by side.

        Without `pack` it is torch's linear everywhere, which torch.compile can read.
        """
        self.linears = tuple(linears)
        parts = [(linear.weight, linear.bias) for linear in linears]
        self.weight = torch.cat([weight.detach() for weight, _ in parts]).to(dtype)
        self.bias = torch.cat([bias.detach() for _, bias in parts]).to(dtype)
        self.activation = activation
        self.is_packed = pack and can_pack(self.weight)
        self.fuses = self.is_packed and is_exact_gelu(activation)
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, states: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The layer's outputs, activated."""
        if self.is_packed:
            after = "gelu" if self.fuses else "none"
            hidden = torch.ops.mkldnn._linear_pointwise(
                states.contiguous(), self.weight, self.bias, after, [], "none"
            )
        else:
            hidden = F.linear(states, self.weight, self.bias)
        return hidden if self.activation is None or self.fuses else self.activation(hidden)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can keep these weights in its own layout: float32, or bf16 with hardware."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    needed = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(torch.ops.mkldnn, name) for name in needed):
        return False  # a torch without these operators, which are its compiler's
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def is_exact_gelu(activation: Activation | None) -> bool:
    """Whether an activation is GELU by the error function, not one of its approximations."""
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return activation is F.gelu or getattr(activation, "act", None) is F.gelu
