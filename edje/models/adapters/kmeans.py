"""Deterministic k-means over the tokens of an image."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edje.models.adapters.facts import AdapterFacts
from edje.models.adapters.reducing import ReducingAdapter
from edje.ranges import NonNegativeInt, PositiveInt


class KMeansAdapter(ReducingAdapter):
    """Replaces the vision tokens of an image by `num_tokens` centres of k-means.

    The baseline in EDJE's comparison starts from k-means++. Here nothing is random: the first
    centre is the token nearest to the mean, then one by one the token farthest from all chosen so
    far (Gonzalez 1985). The centres keep that order. So an image always has the same tokens,
    whatever the order of its vision tokens. No gradient flows to the vision tokens.

    It also runs at every training step: about (iterations + 1) m N multiplications of width D_v
    per image.

    Args:
        num_tokens: m, the number of centres.
        hidden_width: of the projection.
        iterations: rounds of assigning tokens to centres and averaging (Lloyd); 0 keeps the start.
    """

    def __init__(
        self,
        facts: AdapterFacts,
        *,
        num_tokens: PositiveInt = 64,
        hidden_width: PositiveInt = 8192,
        iterations: NonNegativeInt = 10,
    ):
        super().__init__(facts, num_tokens=num_tokens, hidden_width=hidden_width)
        if iterations < 0:
            raise ValueError(f"iterations={iterations}: expected 0 (only the start) or more")
        self.iterations = iterations

    @torch.no_grad()
    def reduce(
        self, tokens: Float[Tensor, "batch vision_tokens token_width"]
    ) -> Float[Tensor, "batch tokens token_width"]:
        """Centres of the tokens' clusters in float32, whatever the precision of the step."""
        with torch.autocast(tokens.device.type, enabled=False):
            return kmeans(tokens.float(), self.num_tokens, self.iterations)


def kmeans(
    points: Float[Tensor, "batch points width"], count: int, iterations: int
) -> Float[Tensor, "batch centres width"]:
    """Centres of `count` clusters of each set of points by Lloyd's iterations.

    A centre that is nearest to no point stays where it is.
    """
    mean = points.mean(dim=1, keepdim=True)
    points = points - mean  # near the origin, distances lose the least to rounding
    centres = farthest_first(points, count)
    for _ in range(iterations):
        distances = torch.cdist(points, centres, compute_mode="use_mm_for_euclid_dist")
        member = F.one_hot(distances.argmin(dim=2), count).to(points.dtype)
        sizes = member.sum(dim=1).unsqueeze(2)  # (batch, centres, 1)
        centres = torch.where(sizes > 0, member.mT @ points / sizes.clamp(min=1), centres)
    return centres + mean


def farthest_first(
    points: Float[Tensor, "batch points width"], count: int
) -> Float[Tensor, "batch centres width"]:
    """The point nearest to the origin, then one by one the point farthest from those chosen."""
    batch = torch.arange(len(points), device=points.device)
    chosen = [points[batch, points.square().sum(dim=2).argmin(dim=1)]]
    nearest = torch.full(points.shape[:2], torch.inf, device=points.device)
    for _ in range(count - 1):
        away = (points - chosen[-1].unsqueeze(1)).square().sum(dim=2)
        nearest = torch.minimum(nearest, away)
        chosen.append(points[batch, nearest.argmax(dim=1)])
    return torch.stack(chosen, dim=1)
