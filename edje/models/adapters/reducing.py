"""The base of the parameter-free compressors: reduce the tokens, then project the rest."""

from jaxtyping import Float
from torch import Tensor

from edje.models.adapters.facts import AdapterFacts
from edje.models.adapters.local import LocalAdapter


class ReducingAdapter(LocalAdapter):
    """Reduces N vision tokens to `num_tokens` by a rule without parameters, then projects each.

    The projection is the local adapter's and runs only on the reduced tokens. Subclasses define
    the rule in `reduce`.

    Args:
        num_tokens: m, at most N.
        hidden_width: of the projection.

    Raises:
        ValueError: `num_tokens` is not between 1 and N.
    """

    def __init__(
        self, facts: AdapterFacts, *, num_tokens: int = 64, hidden_width: int | None = 8192
    ):
        super().__init__(facts, hidden_width=hidden_width)
        if not 1 <= num_tokens <= facts.num_tokens:
            raise ValueError(
                f"num_tokens={num_tokens}: expected 1 to {facts.num_tokens}, the backbone's tokens"
            )
        self.num_tokens = num_tokens

    def forward(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Reduce the tokens and project the result."""
        return super().forward(self.reduce(tokens))

    def reduce(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens token_width"]:
        """`num_tokens` vectors in the space of the vision tokens."""
        raise NotImplementedError
