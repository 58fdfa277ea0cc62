"""The token-compression adapter: learned queries, one cross attention."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edje.models.adapters.adapter import Adapter
from edje.models.adapters.facts import AdapterFacts
from edje.ranges import PositiveInt


class TokenCompressionAdapter(Adapter):
    """Compresses N vision tokens to `num_tokens` by cross attention from learned queries.

    H = MultiHeadAttention(Q, X W_K + b, X W_V + b); O = H + MLP(LayerNorm(H)); Y = O W + b
    (EDJE, section 3). Heads and epsilon are the vision tower's; there is no residual from the
    queries and no position encoding on X.

    Queries don't read each other, so the first k tokens are what the first k queries alone give.
    With `budgets`, every training step draws one of them and trains that many first tokens, so
    that the first k of one adapter are usable for each k (nested budgets, as in the Matryoshka
    query transformer, Hu et al. 2024, arXiv 2405.19315). A trained one gives fewer tokens when
    its `num_tokens` is set lower; stored tokens may as well be cut to their first k.

    Args:
        num_tokens: m, the tokens given at inference, and the queries that are learned.
        hidden_width: of the MLP.
        budgets: numbers of tokens to train, drawn with equal chance; null trains all `num_tokens`
            always. `draw_budget` says which one a step trains.

    Raises:
        ValueError: a budget below 1 or above `num_tokens`, or an empty list of them.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        hidden_width: PositiveInt = 8192,
        budgets: Sequence[int] | None = None,
    ):
        super().__init__()
        if budgets is not None and not (budgets and all(1 <= k <= num_tokens for k in budgets)):
            raise ValueError(
                f"budgets={list(budgets)}: expected numbers of tokens from 1 to "
                f"num_tokens={num_tokens}, at least one, or null for no nesting"
            )
        self.num_tokens = num_tokens
        self.budgets = tuple(budgets or ())
        self.drawn = num_tokens  # tokens given while training
        self.activation = facts.activation
        token_width = facts.token_width
        self.query = nn.Parameter(torch.randn(1, num_tokens, token_width))
        self.key = nn.Linear(token_width, token_width)
        self.value = nn.Linear(token_width, token_width)
        self.attention = nn.MultiheadAttention(token_width, facts.num_heads)  # (N, batch, D_v)
        self.norm = nn.LayerNorm(token_width, eps=facts.layer_norm_eps)
        self.expand = nn.Linear(token_width, hidden_width)
        self.contract = nn.Linear(hidden_width, token_width)
        self.project = nn.Linear(token_width, facts.width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Let every learned query gather what it needs from all tokens."""
        count = self.drawn if self.training else self.num_tokens
        pooled, _ = self.attention(*self._attended(tokens, count), need_weights=False)
        hidden = self.contract(self.activation(self.expand(self.norm(pooled))))
        return self.project(pooled + hidden).transpose(0, 1)

    def attention_maps(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch heads tokens vision_tokens"]:
        """The softmax weights by which `forward` sums the tokens' values at inference.

        Asked for apart: with them torch's attention takes a slower road, which `forward` never
        does.
        """
        _, weights = self.attention(
            *self._attended(tokens, self.num_tokens), need_weights=True, average_attn_weights=False
        )
        return weights

    def _attended(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first `count` queries, keys and values, as the attention takes them.

        Its own order of axes is used: given another, torch copies frozen weights once per vision
        token.
        """
        queries = self.query[0, :count, None].expand(-1, len(tokens), -1).contiguous()
        by_place = tokens.transpose(0, 1).contiguous()
        return queries, self.key(by_place), self.value(by_place)

    def draw_budget(self, chance: float) -> None:
        """As every adapter's: the step then gives so many tokens."""
        if self.budgets:
            self.drawn = self.budgets[int(chance * len(self.budgets))]
