"""The token-compression adapter: learned queries, one cross attention."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edje.models.adapters.adapter import Adapter
from edje.models.adapters.facts import AdapterFacts
from edje.ranges import PositiveInt


class TokenCompressionAdapter(Adapter):
    """Compresses N vision tokens to `num_tokens` by cross attention from learned queries.

    H = MultiHeadAttention(Q, X W_K + b, X W_V + b); O = H + MLP(LayerNorm(H)); Y = O W + b
    (EDJE, section 3). The number of heads and epsilon are the vision tower's. There is no residual
    from the queries and no position encoding on X.

    Queries don't read each other, so the first k tokens depend only on the first k queries. With
    `budgets`, every training step draws one of them and trains that many first tokens. Then the
    first k tokens of one adapter can be used for each k (nested budgets, as in the Matryoshka
    query transformer, Hu et al. 2024, arXiv 2405.19315). A trained adapter returns fewer tokens if
    its `num_tokens` is set lower; stored tokens can also be cut to their first k.

    Args:
        num_tokens: m, the number of tokens at inference, and of learned queries.
        hidden_width: of the MLP.
        budgets: numbers of tokens to train, drawn with equal chance (see `draw_budget`); halves
            are all, a half, a quarter and an eighth of `num_tokens`; null always trains all. A
            training requires that the largest is `num_tokens`.

    Raises:
        ValueError: a budget is below 1 or above `num_tokens`, or there is none.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        hidden_width: PositiveInt = 8192,
        budgets: Sequence[int] | Literal["halves"] | None = None,
    ):
        super().__init__()
        if budgets == "halves":
            budgets = sorted({num_tokens // part for part in (1, 2, 4, 8)} - {0})
        if budgets is not None and not (budgets and all(1 <= k <= num_tokens for k in budgets)):
            raise ValueError(
                f"budgets={list(budgets)}: expected numbers of tokens from 1 to "
                f"num_tokens={num_tokens}, at least one, or null for no nesting"
            )
        self.num_tokens = num_tokens
        self.budgets = tuple(budgets or ())
        self.drawn = num_tokens  # number of tokens while training
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

        A separate method, because torch's attention is slower when it returns weights, which
        `forward` never needs.
        """
        _, weights = self.attention(
            *self._attended(tokens, self.num_tokens), need_weights=True, average_attn_weights=False
        )
        return weights

    def _attended(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first `count` queries, keys and values, as the attention expects them.

        They are in the attention's own axis order: with another order, torch copies frozen weights
        once per vision token.
        """
        queries = self.query[0, :count, None].expand(-1, len(tokens), -1).contiguous()
        by_place = tokens.transpose(0, 1).contiguous()
        return queries, self.key(by_place), self.value(by_place)

    def draw_budget(self, chance: float) -> None:
        """As in every adapter; the step then returns this number of tokens."""
        if self.budgets:
            self.drawn = self.budgets[int(chance * len(self.budgets))]
