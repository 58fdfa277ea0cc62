"""The local adapter: keeps every token and projects each on its own."""

from jaxtyping import Float
from torch import Tensor, nn

from edje.models.adapters.adapter import Adapter
from edje.models.adapters.facts import AdapterFacts
from edje.ranges import PositiveInt


class LocalAdapter(Adapter):
    """Keeps every token and projects each alone: Linear, activation, Linear (EDJE, section 3).

    The uncompressed form, used as the teacher of compressed students. With a `hidden_width` of
    null it is a single Linear.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        hidden_width: PositiveInt | None = 8192,
    ):
        super().__init__()
        self.num_tokens = facts.num_tokens
        self.activation = facts.activation
        self.expand = None if hidden_width is None else nn.Linear(facts.token_width, hidden_width)
        self.project = nn.Linear(hidden_width or facts.token_width, facts.width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Project each token."""
        if self.expand is None:
            return self.project(tokens)
        return self.project(self.activation(self.expand(tokens)))
