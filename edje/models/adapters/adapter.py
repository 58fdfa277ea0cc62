"""What training, checkpoints and scoring know of every adapter."""

from torch import nn


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
