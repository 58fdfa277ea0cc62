"""A stack of cross-attention layers from learned queries, as in the Q-Former."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edje.models.adapters.adapter import Adapter
from edje.models.adapters.facts import AdapterFacts
from edje.ranges import PositiveInt


class QueryTransformerAdapter(Adapter):
    """Compresses N vision tokens to `num_tokens` by several attention layers of queries.

    In each layer the learned queries read each other, then the layer-normalised vision tokens,
    then an MLP follows; all three have residuals and pre-norm. This is the image half of the
    Q-Former (BLIP-2, Li et al. 2023, arXiv 2301.12597), trained from scratch. Width, heads and
    epsilon are the vision tower's; there is no position encoding on the tokens.

    Args:
        num_tokens: m, the number of queries.
        num_layers: depth of the stack.
        hidden_width: of each layer's MLP.

    Raises:
        ValueError: fewer than one layer.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        hidden_width: PositiveInt = 4096,
    ):
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers}: expected 1 or more")
        self.num_tokens = num_tokens
        token_width = facts.token_width
        self.query = nn.Parameter(0.02 * torch.randn(1, num_tokens, token_width))
        self.token_norm = nn.LayerNorm(token_width, eps=facts.layer_norm_eps)
        self.layers = nn.ModuleList(QueryLayer(facts, hidden_width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(token_width, eps=facts.layer_norm_eps)
        self.project = nn.Linear(token_width, facts.width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Run the queries through the stack over the same vision tokens.

        Axes are in the attention's own order, as in `TokenCompressionAdapter`.
        """
        memory = self.token_norm(tokens.transpose(0, 1).contiguous())
        hidden = self.query[0, :, None].expand(-1, len(tokens), -1).contiguous()
        for layer in self.layers:
            hidden = layer(hidden, memory)
        return self.project(self.norm(hidden)).transpose(0, 1)


class QueryLayer(nn.Module):
    """Self attention of the queries, cross attention to the tokens, MLP; pre-norm residuals."""

    def __init__(self, facts: AdapterFacts, hidden_width: int):
        super().__init__()
        token_width, layer_norm_eps = facts.token_width, facts.layer_norm_eps
        self.activation = facts.activation
        self.self_norm = nn.LayerNorm(token_width, eps=layer_norm_eps)
        self.self_attention = nn.MultiheadAttention(token_width, facts.num_heads)
        self.cross_norm = nn.LayerNorm(token_width, eps=layer_norm_eps)
        self.cross_attention = nn.MultiheadAttention(token_width, facts.num_heads)
        self.mlp_norm = nn.LayerNorm(token_width, eps=layer_norm_eps)
        self.expand = nn.Linear(token_width, hidden_width)
        self.contract = nn.Linear(hidden_width, token_width)

    def forward(
        self,
        hidden: Float[Tensor, "queries batch token_width"],
        memory: Float[Tensor, "vision_tokens batch token_width"],
    ) -> Float[Tensor, "queries batch token_width"]:
        """One layer: the queries read each other, then the image."""
        normed = self.self_norm(hidden)
        hidden = hidden + self.self_attention(normed, normed, normed, need_weights=False)[0]
        normed = self.cross_norm(hidden)
        hidden = hidden + self.cross_attention(normed, memory, memory, need_weights=False)[0]
        return hidden + self.contract(self.activation(self.expand(self.mlp_norm(hidden))))
