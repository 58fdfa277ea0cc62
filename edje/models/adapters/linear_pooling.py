"""Mean pooling over the grid, then one linear map, which can start from a closed form."""

from jaxtyping import Float
from torch import Tensor

from edje.models.adapters.facts import AdapterFacts
from edje.models.adapters.grid_pooling import GridPoolingAdapter
from edje.models.standardise import Standardise
from edje.ranges import PositiveInt


class LinearPoolingAdapter(GridPoolingAdapter):
    """Averages the grid like `GridPoolingAdapter`, standardises, and projects by one linear map.

    `start=canonical` sets moments and map from canonical correlations of images and captions.
    With few training images, a large `dropout` helps such a map to generalise.

    Args:
        num_tokens: m, cells of the grid.
        dropout: share of an image's channels dropped in training (see `Standardise`).
    """

    def __init__(self, facts: AdapterFacts, *, num_tokens: PositiveInt = 64, dropout: float = 0.0):
        super().__init__(facts, num_tokens=num_tokens, hidden_width=None)
        self.standardise = Standardise(facts.token_width, dropout)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Pool, standardise, project."""
        return self.project(self.standardise(self.reduce(tokens)))
