"""Mean pooling over the image's grid of tokens."""

from math import isqrt

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.models.adapters.facts import AdapterFacts
from edje.models.adapters.reducing import ReducingAdapter
from edje.ranges import PositiveInt


class GridPoolingAdapter(ReducingAdapter):
    """Averages the square grid of vision tokens over `num_tokens` cells, row by row.

    The cells form the most nearly square grid of that number: 64 is 8x8, 8 is 2 rows of 4. If they
    don't divide the tokens' grid, neighbouring cells share a row or column of tokens (adaptive
    average pooling, as in DeCo, Yao et al. 2024, arXiv 2405.20985).

    Raises:
        ValueError: the tokens don't form a square, or have fewer columns than the cells.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        hidden_width: PositiveInt | None = 8192,
    ):
        super().__init__(facts, num_tokens=num_tokens, hidden_width=hidden_width)
        tokens = facts.num_tokens
        self.side = isqrt(tokens)
        if self.side**2 != tokens:
            raise ValueError(
                f"the backbone's {tokens} tokens don't form a square grid, which pooling "
                "needs; set keep_class_token=false or use another adapter"
            )
        rows = next(r for r in range(isqrt(num_tokens), 0, -1) if num_tokens % r == 0)
        self.cells = (rows, num_tokens // rows)
        if self.cells[1] > self.side:
            raise ValueError(
                f"num_tokens={num_tokens} is {self.cells[0]} x {self.cells[1]} cells at best, more "
                f"columns than the {self.side} x {self.side} tokens have; choose a number with "
                "factors closer to each other"
            )

    def reduce(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens token_width"]:
        """Means of the cells, row by row."""
        grid = tokens.mT.unflatten(2, (self.side, self.side))  # (batch, token_width, side, side)
        return F.adaptive_avg_pool2d(grid, self.cells).flatten(2).mT
