"""Facts about the models on an adapter's two sides."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BackboneFacts:
    """What a reranker must know about its backbone; its checkpoint keeps these facts."""

    num_tokens: int  # N
    token_width: int  # of the vision tokens
    num_heads: int  # of the vision tower
    layer_norm_eps: float  # of the vision tower
    embedding_width: int  # of the first stage's embeddings

    def beside(self, width: int) -> "AdapterFacts":
        """These facts, with a joint encoder's width added."""
        return AdapterFacts(**vars(self), width=width)


@dataclass(frozen=True)
class AdapterFacts(BackboneFacts):
    """What every adapter receives: facts about the backbone, and the joint encoder's width."""

    width: int
    activation: Activation = F.gelu
