"""Adapters: from the frozen backbone's vision tokens to the tokens that the joint encoder reads.

Every adapter maps `(batch, N, token_width)` to `(batch, num_tokens, width)`. Positional arguments
are facts of the backbone and the language model, keyword-only ones are choices.
"""

from collections.abc import Callable

import torch
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


class TokenCompressionAdapter(nn.Module):
    """Compresses N vision tokens to `num_tokens` by cross attention from learned queries.

    H = MultiHeadAttention(Q, X W_K + b, X W_V + b); O = H + MLP(LayerNorm(H)); Y = O W + b
    (EDJE, section 3). Heads and epsilon are the vision tower's; there is no residual from the
    queries and no position encoding on X.
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
        num_tokens: int = 64,
        hidden_width: int = 8192,
    ):
        super().__init__()
        del num_vision_tokens  # any number of vision tokens can be attended to
        self.num_tokens = num_tokens
        self.activation = activation
        self.query = nn.Parameter(torch.randn(1, num_tokens, token_width))
        self.key = nn.Linear(token_width, token_width)
        self.value = nn.Linear(token_width, token_width)
        self.attention = nn.MultiheadAttention(token_width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(token_width, eps=layer_norm_eps)
        self.expand = nn.Linear(token_width, hidden_width)
        self.contract = nn.Linear(hidden_width, token_width)
        self.project = nn.Linear(token_width, width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Let every learned query gather what it needs from all tokens."""
        queries = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(
            queries, self.key(tokens), self.value(tokens), need_weights=False
        )
        hidden = self.contract(self.activation(self.expand(self.norm(pooled))))
        return self.project(pooled + hidden)
