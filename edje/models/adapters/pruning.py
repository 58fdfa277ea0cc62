"""Pruning: keep the tokens that get the most attention."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.models.adapters.facts import AdapterFacts
from edje.models.adapters.reducing import ReducingAdapter
from edje.ranges import PositiveInt


class AttentionPruningAdapter(ReducingAdapter):
    """Keeps the `num_tokens` vision tokens with the highest weights, in the image's order.

    Pruning by attention (EViT, Liang et al. 2022, arXiv 2202.07800) keeps the patches that the
    class token attends to most. A store holds no attention maps, and SigLIP has no class token,
    so the weight is a substitute, computed only from the tokens:

    - "attention": the softmax attention that the mean of the layer-normalised tokens pays to
      each of them, averaged over the tower's heads, without learned projections;
    - "norm": the token's length. Long tokens of large towers tend to describe the whole image
      rather than their patch (Darcet et al. 2024, arXiv 2309.16588).

    Args:
        num_tokens: m, the tokens kept.
        hidden_width: of the projection.
        by: the weight, "attention" or "norm".
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        hidden_width: PositiveInt = 8192,
        by: Literal["attention", "norm"] = "attention",
    ):
        super().__init__(facts, num_tokens=num_tokens, hidden_width=hidden_width)
        self.num_heads = facts.num_heads
        self.layer_norm_eps = facts.layer_norm_eps
        self.by = by

    def reduce(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens token_width"]:
        """The kept tokens; on equal weights the earlier token is kept."""
        order = self.weights(tokens).argsort(dim=1, descending=True, stable=True)
        kept = order[:, : self.num_tokens].sort(dim=1).values
        return tokens.take_along_dim(kept.unsqueeze(2), dim=1)

    @torch.no_grad()
    def weights(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch vision_tokens"]:
        """The weight of each token, in float32."""
        tokens = tokens.float()
        if self.by == "norm":
            return tokens.norm(dim=2)
        with torch.autocast(tokens.device.type, enabled=False):
            normed = F.layer_norm(tokens, tokens.shape[-1:], eps=self.layer_norm_eps)
            keys = normed.unflatten(2, (self.num_heads, -1))  # (batch, tokens, heads, head width)
            query = keys.mean(dim=1, keepdim=True)
            logits = (query * keys).sum(dim=3) / keys.shape[3] ** 0.5
            return logits.softmax(dim=1).mean(dim=2)
