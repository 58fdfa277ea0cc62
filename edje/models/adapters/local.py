"""The local adapter: every token kept, each projected alone."""

from jaxtyping import Float
from torch import Tensor, nn

from edje.models.adapters.facts import AdapterFacts


class LocalAdapter(nn.Module):
    """Keeps every token and projects each alone: Linear, activation, Linear (EDJE, section 3).

    The uncompressed form, which serves as the teacher of compressed students.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        hidden_width: int = 8192,
    ):
        super().__init__()
        self.num_tokens = facts.num_vision_tokens
        self.activation = facts.activation
        self.expand = nn.Linear(facts.token_width, hidden_width)
        self.project = nn.Linear(hidden_width, facts.width)

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Project each token."""
        return self.project(self.activation(self.expand(tokens)))
