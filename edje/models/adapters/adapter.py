"""What training, checkpoints and scoring know of every adapter."""

import copy

from jaxtyping import Float
from torch import Tensor, nn


class Adapter(nn.Module):
    """From vision tokens, (batch, N, token_width), to visual tokens, (batch, num_tokens, width).

    A subclass is made of `AdapterFacts`, and of choices as keyword-only arguments. It sets
    `num_tokens`, the tokens that it gives of an image at inference, and `budgets` where its first
    tokens were trained to be used without the others.
    """

    num_tokens: int
    budgets: tuple[int, ...] = ()  # numbers of first tokens that are usable alone

    def draw_budget(self, chance: float) -> None:
        """Choose the budget of a training step by a number in [0, 1), the same on every rank.

        Without budgets there is nothing to choose.
        """

    def attention_maps(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch heads tokens vision_tokens"] | None:
        """How much of each vision token every visual token reads, head by head; rows sum to 1.

        The weights that `forward` gathers with, at inference. None, as here, where a visual token
        is no weighted sum of the vision tokens.
        """
        return None

    def with_first_tokens(self, num_tokens: int) -> "Adapter":
        """An adapter of the same weights, in memory too, that gives the first tokens only.

        Without what training wrapped around its forward. A subclass that has budgets must go by
        `num_tokens` at inference.
        """
        few = copy.copy(self)
        vars(few).pop("forward", None)  # of gradient checkpointing, bound to this one
        few.num_tokens = num_tokens
        return few
