"""Every n-th token."""

import torch
from jaxtyping import Float
from torch import Tensor

from edje.models.adapters.reducing import ReducingAdapter


class SubsamplingAdapter(ReducingAdapter):
    """Keeps every n-th vision token, starting with the first, n = N / `num_tokens`.

    If n isn't a whole number, the i-th kept token is token floor(i N / m). With 576 tokens and 64
    to keep, this is the "every 9th token" baseline of EDJE's comparison.
    """

    def reduce(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens token_width"]:
        """The kept tokens, in order."""
        rows = torch.arange(self.num_tokens, device=tokens.device) * tokens.shape[1]
        return tokens[:, rows // self.num_tokens]
