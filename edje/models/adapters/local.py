"""The local adapter: every token kept, each projected alone."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


class LocalAdapter(nn.Module):
    """Keeps every token and projects each alone: Linear, activation, Linear (EDJE, section 3).

    The uncompressed form, which serves as the teacher of compressed students.
    """

    def __init__(
        self,
        num_vision_tokens: int,
        token_width: int,
        width: int,
        num_heads: int,
        layer_norm_eps: float,
        activation: Activation = F.gelu,
        *,
        hidden_width: int = 8192,
    ):
        super().__init__()
        del num_heads, layer_norm_eps  # facts that only attention-based adapters need
        self.num_tokens = num_vision_tokens
        self.activation = activation
        self.expand = nn.Linear(token_width, hidden_width)
        self.project = nn.Linear(hidden_width, width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Project each token."""
        return self.project(self.activation(self.expand(tokens)))
