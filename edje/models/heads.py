"""Heads on the joint encoder: match, masked language, first-stage residual; late interaction."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class MatchHead(nn.Module):
    """One logit per pair from the [CLS] state: Linear(tanh(Linear(h))), in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)

    def forward(self, state: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch"]:
        """Match logits; computed outside autocast, because rounding would create ties."""
        with torch.autocast(state.device.type, enabled=False):
            return self.score(torch.tanh(self.dense(state.float()))).squeeze(-1)


class MaskedLanguageHead(nn.Module):
    """Predicts word pieces: dense, GELU, LayerNorm, then a decoder tied to the word embeddings."""

    def __init__(self, width: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def take_over(self, layer_norm_eps: float, weights: Mapping[str, Tensor] | None) -> None:
        """Take over a pretrained head; without weights, only its LayerNorm epsilon."""
        self.norm.eps = layer_norm_eps
        if weights is not None:
            self.load_state_dict(dict(weights))

    def forward(
        self,
        states: Float[Tensor, "masked width"],
        word_embeddings: Float[Tensor, "vocabulary width"],
    ) -> Float[Tensor, "masked vocabulary"]:
        """Logits over the vocabulary, only for the given (masked) positions."""
        return F.linear(self.norm(F.gelu(self.dense(states))), word_embeddings, self.bias)


class FirstStageResidual(nn.Module):
    """Adds the standardised first-stage score to the [CLS] state before the match head.

    Linear(1→64), GELU, Linear(64→width) (VEDJE). The last layer starts at zero, so an untrained
    residual changes nothing.
    """

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(1, 64)
        self.project = nn.Linear(64, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(
        self,
        state: Float[Tensor, "*batch width"],
        standardised: Float[Tensor, "*batch"],
    ) -> Float[Tensor, "*batch width"]:
        """`state` with the projected first-stage score added, in float32."""
        with torch.autocast(state.device.type, enabled=False):
            hidden = F.gelu(self.expand(standardised.float().unsqueeze(-1)))
            return state.float() + self.project(hidden)


def late_interaction(
    words: Float[Tensor, "captions length width"],
    present: Bool[Tensor, "captions length"],
    visual: Float[Tensor, "images tokens width"],
) -> Float[Tensor, "captions images"]:
    """Each present word's largest cosine to a visual token, averaged over the caption's words.

    All captions are compared with all images (ColBERT, Khattab and Zaharia, 2020; FILIP, Yao et
    al., 2022), in float32, also under autocast. Memory grows with captions · images · length ·
    tokens.
    """
    with torch.autocast(words.device.type, enabled=False):
        words, visual = F.normalize(words.float(), dim=-1), F.normalize(visual.float(), dim=-1)
        nearest = torch.einsum("cld,imd->cilm", words, visual).amax(dim=3)
        weights = present / present.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("cil,cl->ci", nearest, weights)


def word_positions(attention_mask: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    """The positions of a caption's own word pieces: not [CLS], [SEP] or padding."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = attention_mask.sum(dim=1, keepdim=True) - 1  # the position of [SEP]
    return (columns > 0) & (columns < last)
