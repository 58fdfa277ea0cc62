"""Features standardised with fixed moments, with dropout of whole channels in training."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standardise(nn.Module):
    """`(x - mean) / scale` per channel, with dropout of whole channels of a sample.

    The moments are buffers, 0 and 1 until `set_moments`. A dropped channel is set to its mean at
    every position of the sample. Positions are averaged later, so dropping single positions would
    hardly hide a channel (as in torch's Dropout1d).

    Raises:
        ValueError: the dropout is not from 0 to below 1.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: expected 0 to below 1")
        self.dropout = dropout
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def set_moments(self, features: Float[Tensor, "samples width"]) -> None:
        """Compute mean and deviation from the features; a constant channel keeps scale 1."""
        deviation = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(
        self, features: Float[Tensor, "samples positions width"]
    ) -> Float[Tensor, "samples positions width"]:
        """Standardised features; in training some channels of each sample are zero."""
        standardised = (features - self.mean) / self.scale
        if not self.training or not self.dropout:
            return standardised
        kept = torch.rand_like(standardised[:, :1]) >= self.dropout
        return standardised * (kept / (1 - self.dropout))
