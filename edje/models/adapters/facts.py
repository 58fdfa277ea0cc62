"""What every adapter is told of the models on its two sides."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdapterFacts:
    """Facts of the backbone, and the width of the language model."""

    num_vision_tokens: int  # N
    token_width: int  # of the vision tokens
    width: int  # of the joint encoder
    num_heads: int  # of the vision tower
    layer_norm_eps: float  # of the vision tower
    activation: Activation = F.gelu
