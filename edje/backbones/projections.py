"""Two linear maps from image and caption features into one space where cosine similarity ranks.

They start as regularised canonical correlation analysis, which has a closed form, and are then
trained contrastively with strong dropout on the features. Both steps are cheap: no tower runs.
"""

import logging
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearMap:
    """`features @ weight + bias`."""

    weight: Float[Tensor, "features embedding"]
    bias: Float[Tensor, "embedding"]

    def __call__(self, features: Float[Tensor, "batch features"]) -> Tensor:
        """L2-normalised embeddings."""
        return functional.normalize(features @ self.weight + self.bias, dim=-1)


@dataclass(frozen=True)
class Pair:
    """The maps of both sides, for standardised features."""

    image: LinearMap
    text: LinearMap

    def tensors(self) -> list[Tensor]:
        """All trained tensors."""
        return [self.image.weight, self.image.bias, self.text.weight, self.text.bias]


@dataclass(frozen=True)
class ContrastiveRecipe:
    """How the maps are trained; see `AlignedBackbone`."""

    epochs: int
    batch_size: int
    learning_rate: float
    image_dropout: float
    text_dropout: float
    temperature: float


WARMUP_STEPS = 10


def canonical_maps(
    image: Float[Tensor, "images image_features"],
    text: Float[Tensor, "captions text_features"],
    image_of_caption: Int[Tensor, "captions"],
    width: int,
    image_shrinkage: float,
    text_shrinkage: float,
    correlation_power: float,
) -> Pair:
    """Regularised canonical correlation analysis of centred images with their mean captions.

    The shrinkages are added to the covariances' diagonals, in units of the mean variance. Each
    of the `width` directions is weighted by its correlation to the given power. The weights are
    scaled so that embeddings have a mean length of one before normalisation.
    """
    dtype = torch.float64
    x, y = image.to(dtype), text.to(dtype)
    means = caption_means(y, image_of_caption, len(x))
    cross = x.T @ means / len(x)
    left = _cholesky(x.T @ x / len(x), image_shrinkage)
    right = _cholesky(y.T @ y / len(y), text_shrinkage)
    whitened = torch.linalg.solve_triangular(left, cross, upper=False)
    whitened = torch.linalg.solve_triangular(right, whitened.T, upper=False).T
    u, correlations, v = torch.linalg.svd(whitened, full_matrices=False)
    strength = correlations[:width].pow(correlation_power)
    image_weight = torch.linalg.solve_triangular(left.T, u[:, :width] * strength, upper=True)
    text_weight = torch.linalg.solve_triangular(right.T, v[:width].T * strength, upper=True)
    image_weight /= (x @ image_weight).norm(dim=1).mean()
    text_weight /= (y @ text_weight).norm(dim=1).mean()
    zero = torch.zeros(width)
    return Pair(LinearMap(image_weight.float(), zero), LinearMap(text_weight.float(), zero.clone()))


def contrastive_maps(
    start: Pair,
    image: Float[Tensor, "images image_features"],
    text: Float[Tensor, "captions text_features"],
    image_of_caption: Int[Tensor, "captions"],
    recipe: ContrastiveRecipe,
    seed: int,
) -> tuple[Pair, float]:
    """The maps after training by symmetric InfoNCE, and the last step's loss.

    An epoch takes every image once, with one of its captions. All randomness comes from the
    seed; the global generator is neither read nor changed.
    """
    generator = torch.Generator().manual_seed(seed)
    captions = _CaptionsByImage(image_of_caption, len(image))
    batch = min(recipe.batch_size, len(image))
    per_epoch = len(image) // batch
    steps = recipe.epochs * per_epoch
    trained = Pair(
        LinearMap(*(tensor.clone().requires_grad_() for tensor in start.tensors()[:2])),
        LinearMap(*(tensor.clone().requires_grad_() for tensor in start.tensors()[2:])),
    )
    log_scale = torch.tensor(-math.log(recipe.temperature), requires_grad=True)
    optimiser = torch.optim.Adam([*trained.tensors(), log_scale], lr=recipe.learning_rate)
    loss = torch.zeros(())
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(image), generator=generator)
        rows = order[step % per_epoch * batch :][:batch]
        x = _dropout(image[rows], recipe.image_dropout, generator)
        y = _dropout(text[captions.sample(rows, generator)], recipe.text_dropout, generator)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, steps)
        loss = _symmetric_info_nce(trained.image(x), trained.text(y), log_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights = [tensor.detach() for tensor in trained.tensors()]
    return Pair(LinearMap(*weights[:2]), LinearMap(*weights[2:])), loss.item()


def caption_means(
    text: Float[Tensor, "captions features"], image_of_caption: Int[Tensor, "captions"], images: int
) -> Float[Tensor, "images features"]:
    """Mean features of each image's captions."""
    sums = torch.zeros(images, text.shape[1], dtype=text.dtype)
    sums.index_add_(0, image_of_caption, text)
    return sums / torch.bincount(image_of_caption, minlength=images)[:, None]


class _CaptionsByImage:
    """Draws one caption for each image."""

    def __init__(self, image_of_caption: Tensor, images: int):
        self.rows = torch.argsort(image_of_caption, stable=True)
        self.counts = torch.bincount(image_of_caption, minlength=images)
        self.starts = self.counts.cumsum(0) - self.counts

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(len(images), generator=generator, dtype=torch.float64)
        return self.rows[self.starts[images] + (drawn * self.counts[images]).long()]


def _cholesky(covariance: Tensor, shrinkage: float) -> Tensor:
    ridge = shrinkage * covariance.diagonal().mean()
    return torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)))


def _dropout(features: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(features.shape, generator=generator) >= rate
    return features * kept / (1 - rate)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def _symmetric_info_nce(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    logits = image @ text.T * scale
    target = torch.arange(len(logits))
    images = functional.cross_entropy(logits, target)
    return (images + functional.cross_entropy(logits.T, target)) / 2
