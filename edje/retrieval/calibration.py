"""The probability that the first hit is right, from a list's scores and the gallery's size."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.errors import EdjeError
from edje.retrieval.metrics import best_first

HITS = 3  # of each search used in the fit: the first counts most, but lists show others
RIDGE = 1.0  # on standardised features: keeps weights finite if right and wrong separate
SIGNS = (1.0, 1.0, 1.0, 1.0, -1.0)  # of the features' weights
ANSWERED = tuple(step / 20 for step in range(20, 0, -1))  # shares of the searches
FEWEST_ANSWERS = 20  # for which a precision is stated


@dataclass(frozen=True)
class Searches:
    """Final scores of the hits of many searches, and which of them are right.

    Hits may be in any order; a list that is shorter than others ends with scores of −inf.
    """

    scores: Float[Tensor, "searches pool"]
    right: Bool[Tensor, "searches pool"]
    gallery_sizes: Int[Tensor, "searches"]


def joined(parts: Sequence[Searches]) -> Searches:
    """All searches together; their lists have equal length."""
    names = [field.name for field in fields(Searches)]
    return Searches(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class OperatingPoint:
    """Accepting first hits from `probability` on: the share that is right, and that is accepted."""

    probability: float
    precision: float
    answered: float


@dataclass(frozen=True)
class Calibration:
    """log odds that a hit is right = intercept + Σ per_… · feature, for one direction.

    The features of a hit are: its final score; 1 if it is the first, else 0; the square root of
    its lead (the first hit's distance to the second, else 0); its lag (minus the distance to the
    first); and the natural logarithm of the gallery's size. The fit uses searches of which half
    look for something that isn't in the gallery, so probabilities are only reliable if about half
    do in use. Plain numbers, as in a checkpoint.
    """

    score: str  # joint, residual or sum: the kind of the final scores
    intercept: float
    per_score: float
    per_first: float
    per_root_lead: float
    per_lag: float
    per_log_size: float
    smallest_gallery: int  # in the fit; smaller galleries count as this size
    largest_gallery: int  # in the fit; larger galleries are extrapolated
    num_searches: int  # in the fit; bounds how close to 0 or 1 a probability can be
    operating_points: tuple[OperatingPoint, ...]  # first for all answers, then for fewer

    def probability(
        self, scores: Float[Tensor, "*searches pool"], gallery_size: int
    ) -> Float[Tensor, "*searches pool"]:
        """Probability, in float64, that each hit is right, in the order given.

        `scores` are the final scores of all hits of a search; `gallery_size` is the number of
        images (t2i) or captions (i2t) that were searched. A hit with a higher score never has a
        lower probability.
        """
        return self._of_sizes(scores, torch.tensor(gallery_size).expand(scores.shape[:-1]))

    def first_hits(self, searches: Searches) -> Float[Tensor, "searches"]:
        """Probability that each search's first hit is right."""
        return self._of_sizes(searches.scores, searches.gallery_sizes).amax(dim=1)

    def threshold(self, precision: float) -> float:
        """The lowest probability threshold at which this share of accepted first hits was right.

        Raises:
            EdjeError: it isn't a share, or no threshold reached it on the searches of the fit.
        """
        if not 0 < precision <= 1:
            raise EdjeError(
                f"threshold: precision={precision} is not a share above 0 and at most 1. Write "
                "90% as 0.9."
            )
        reached = [point for point in self.operating_points if point.precision >= precision]
        if reached:
            return min(point.probability for point in reached)
        best = max(self.operating_points, key=lambda point: point.precision)
        raise EdjeError(
            f"threshold: no probability reached precision={precision:g}. The best is "
            f"{best.precision:.3f}, from probability {best.probability:.3f} on, with "
            f"{best.answered:.0%} of the searches answered. Give at most that precision."
        )

    def _of_sizes(self, scores: Tensor, sizes: Tensor) -> Tensor:
        given = sizes.clamp(min=self.smallest_gallery).to(scores.device)
        found = features(scores, given)
        weights = found.new_tensor(
            [self.per_score, self.per_first, self.per_root_lead, self.per_lag, self.per_log_size]
        )
        logits = self.intercept + found @ weights
        margin = 1 / (self.num_searches + 2)
        probability = logits.sigmoid().clamp(margin, 1 - margin)
        return probability.masked_fill(scores == -torch.inf, 0.0)


def features(
    scores: Float[Tensor, "*searches pool"], gallery_sizes: Int[Tensor, "*searches"]
) -> Float[Tensor, "*searches pool features"]:
    """Score, first, root of lead, lag, logarithm of the gallery's size for each hit, in float64.

    A single hit has no lead.
    """
    scores = scores.double()
    absent = scores == -torch.inf
    padded = torch.nn.functional.pad(scores, (0, 1), value=-torch.inf)
    best, second = padded.topk(2, dim=-1).values.split(1, dim=-1)
    ahead = (best - second).masked_fill(second == -torch.inf, 0.0)
    is_first = (scores == best) & ~absent
    lead = torch.where(is_first, ahead.sqrt(), 0.0)
    lag = (scores - best).masked_fill(absent, 0.0)
    size = gallery_sizes.double().log()[..., None].expand_as(scores)
    score = scores.masked_fill(absent, 0.0)
    return torch.stack([score, is_first.double(), lead, lag, size], dim=-1)


def fit_calibration(searches: Searches, score: str) -> Calibration:
    """The calibration of one direction, from searches whose right hits are known.

    A logistic regression with a ridge penalty, by Newton's method. A feature whose weight would
    have the wrong sign is left out: a higher score never makes a hit less likely, and a larger
    gallery never makes it more likely.
    """
    scores, right = best_first(searches.scores.double(), searches.right)
    scores, right = scores[:, :HITS], right[:, :HITS]
    listed = scores != -torch.inf
    found = features(scores, searches.gallery_sizes)[listed]
    intercept, (per_score, per_first, per_root_lead, per_lag, per_log_size) = _fitted(
        found, right[listed].double()
    )
    fitted = Calibration(
        score=score,
        intercept=intercept,
        per_score=per_score,
        per_first=per_first,
        per_root_lead=per_root_lead,
        per_lag=per_lag,
        per_log_size=per_log_size,
        smallest_gallery=int(searches.gallery_sizes.min()),
        largest_gallery=int(searches.gallery_sizes.max()),
        num_searches=len(scores),
        operating_points=(),
    )
    points = operating_points(fitted.first_hits(searches), right[:, 0])
    return replace(fitted, operating_points=points)


def operating_points(
    probability: Float[Tensor, "searches"], right: Bool[Tensor, "searches"]
) -> tuple[OperatingPoint, ...]:
    """Precision if the most probable 100%, 95%, … of the searches are answered."""
    ordered = probability.sort(descending=True).values
    counts = [round(share * len(ordered)) for share in ANSWERED]
    least = min(FEWEST_ANSWERS, len(ordered))
    points = {}
    for value in (ordered[count - 1].item() for count in counts if count >= least):
        accepted = probability >= value
        precision = right[accepted].double().mean().item()
        points[value] = OperatingPoint(value, precision, accepted.double().mean().item())
    return tuple(points.values())


def _fitted(
    found: Float[Tensor, "hits features"], right: Float[Tensor, "hits"]
) -> tuple[float, list[float]]:
    """Intercept and weights of the raw features; no weight has the wrong sign."""
    mean, std = found.mean(dim=0), found.std(dim=0, correction=0)
    std = torch.where(std > 1e-9, std, 1.0)
    standardised = (found - mean) / std
    signs = torch.tensor(SIGNS).to(found)
    kept = torch.ones(len(signs), dtype=torch.bool)
    while True:
        given = torch.cat([torch.ones_like(right)[:, None], standardised * kept], dim=1)
        weights = _newton(given, right)
        wrong = weights[1:] * signs < 0
        if not wrong.any():
            break
        kept &= ~wrong
    raw = weights[1:] / std
    return (weights[0] - raw @ mean).item(), raw.tolist()


def _newton(
    given: Float[Tensor, "hits weights"], right: Float[Tensor, "hits"], steps: int = 100
) -> Float[Tensor, "weights"]:
    """Weights that minimise logistic loss plus ridge; a step that would raise it is halved."""
    weights = given.new_zeros(given.shape[1])
    ridge = RIDGE * torch.eye(len(weights)).to(given)

    def loss(weights: Tensor) -> Tensor:
        logits = given @ weights
        wrong = torch.nn.functional.binary_cross_entropy_with_logits(logits, right, reduction="sum")
        return wrong + weights @ ridge @ weights / 2

    for _ in range(steps):
        probability = (given @ weights).sigmoid()
        slope = given.T @ (probability - right) + ridge @ weights
        bend = given.T * (probability * (1 - probability)) @ given + ridge
        step = torch.linalg.solve(bend, slope)
        while loss(weights - step) > loss(weights) and step.abs().max() > 1e-9:
            step = step / 2
        weights = weights - step
        if step.abs().max() < 1e-9:
            break
    return weights
