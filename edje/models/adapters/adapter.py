"""The interface that training, checkpoints and scoring use of every adapter."""

import copy

from jaxtyping import Float
from torch import Tensor, nn


class Adapter(nn.Module):
    """From vision tokens, (batch, N, token_width), to visual tokens, (batch, num_tokens, width).

    A subclass is built from `AdapterFacts` and choices, which are keyword-only arguments. It sets
    `num_tokens`, the number of tokens per image at inference. It also sets `budgets` if its first
    tokens were trained to be used without the others.
    """

    num_tokens: int
    budgets: tuple[int, ...] = ()  # numbers of first tokens that can be used alone

    def draw_budget(self, chance: float) -> None:
        """Choose a training step's budget by a number in [0, 1), the same on every rank.

        Without budgets this does nothing.
        """

    def attention_maps(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch heads tokens vision_tokens"] | None:
        """How much of each vision token every visual token reads, head by head; rows sum to 1.

        These are the weights that `forward` uses at inference. None, as here, if a visual token
        isn't a weighted sum of the vision tokens.
        """
        return None

    def with_first_tokens(self, num_tokens: int) -> "Adapter":
        """An adapter that shares these weights and returns only the first tokens.

        It leaves out what training wrapped around `forward`. A subclass with budgets must respect
        `num_tokens` at inference.
        """
        few = copy.copy(self)
        vars(few).pop("forward", None)  # from gradient checkpointing, bound to the original
        few.num_tokens = num_tokens
        return few
