"""A vision-only backbone and a sentence encoder joined into a dual encoder by two projections."""

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from edje.backbones.projections import (
    ContrastiveRecipe,
    LinearMap,
    Pair,
    canonical_maps,
    contrastive_maps,
)
from edje.backbones.protocol import Identity, ImageEncoding, TextEncoder, VisionBackbone
from edje.errors import EdjeError

log = logging.getLogger(__name__)


class AlignedBackbone(nn.Module):
    """A dual encoder from two separately trained, frozen towers, joined by fitted projections.

    `fit` works on stored features, so a refit invalidates no store. Image features are
    L2-normalised, then both sides are standardised over the training set. All of this is folded
    into one matrix and one bias per side.

    Args:
        vision: the tower that gives tokens and pooled image features.
        text: the tower that gives caption features.
        checkpoint: the vision weights' file, for `vision.checkpoint: ${backbone.checkpoint}`.
            It is one key at the root of the node for any tower; only `vision` reads it.
        embedding_width: of the common space, at most the smaller feature width.
        image_shrinkage: ridge of the initial image covariance, in units of its mean variance.
        text_shrinkage: likewise for the captions.
        correlation_power: each canonical direction starts with its correlation to this power.
        epochs: passes over the images in the contrastive training; 0 keeps the closed form.
        batch_size: images, each with one caption; they are each other's negatives.
        learning_rate: of Adam, with 10 warm-up steps and then a cosine to zero.
        image_dropout: share of the standardised image features set to zero at each step.
        text_dropout: likewise for the caption features.
        temperature: initial value of the InfoNCE loss's learned temperature.

    Raises:
        EdjeError: an embedding wider than the features, or a recipe value out of range.
    """

    def __init__(
        self,
        *,
        vision: VisionBackbone,
        text: TextEncoder,
        checkpoint: str | None = None,
        embedding_width: int = 256,
        image_shrinkage: float = 3.0,
        text_shrinkage: float = 1.0,
        correlation_power: float = 0.6,
        epochs: int = 120,
        batch_size: int = 1000,
        learning_rate: float = 5e-4,
        image_dropout: float = 0.8,
        text_dropout: float = 0.2,
        temperature: float = 0.05,
    ):
        super().__init__()
        self.vision, self.text, self.checkpoint = vision, text, checkpoint
        self.num_tokens: int = vision.num_tokens
        self.token_width: int = vision.token_width
        self.feature_width: int = vision.feature_width
        self.text_width: int = text.text_width
        self.num_heads: int = vision.num_heads
        self.layer_norm_eps: float = vision.layer_norm_eps
        self.embedding_width = embedding_width
        self.shrinkage = (image_shrinkage, text_shrinkage)
        self.correlation_power = correlation_power
        self.contrastive = ContrastiveRecipe(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            image_dropout=image_dropout,
            text_dropout=text_dropout,
            temperature=temperature,
        )
        self._check()
        self.fitted = False
        for name, shape in self._shapes().items():
            self.register_buffer(name, torch.zeros(shape))

    def _check(self) -> None:
        widest = min(self.feature_width, self.text_width)
        if not 1 <= self.embedding_width <= widest:
            raise EdjeError(
                f"embedding_width={self.embedding_width}: expected 1 to {widest}, the smaller of "
                f"the widths of image features ({self.feature_width}) and caption features "
                f"({self.text_width})."
            )
        recipe = self.contrastive
        within = {
            "image_shrinkage": self.shrinkage[0] > 0,
            "text_shrinkage": self.shrinkage[1] > 0,
            "epochs": recipe.epochs >= 0,
            "batch_size": recipe.batch_size >= 2,
            "learning_rate": recipe.learning_rate > 0,
            "image_dropout": 0 <= recipe.image_dropout < 1,
            "text_dropout": 0 <= recipe.text_dropout < 1,
            "temperature": recipe.temperature > 0,
        }
        wrong = [name for name, fine in within.items() if not fine]
        if wrong:
            values = {**vars(recipe), **self.recipe()}
            raise EdjeError(
                f"{wrong[0]}={values[wrong[0]]} is out of range: expected positive shrinkages, "
                "learning_rate and temperature, batch_size of 2 or more, dropouts from 0 to "
                "below 1."
            )

    def train(self, mode: bool = True) -> "AlignedBackbone":
        """Stays in evaluation mode: towers and projections are frozen once fitted."""
        return super().train(False)

    def recipe(self) -> dict[str, str | int | float]:
        """Everything that `fit` depends on, except data and seed."""
        return {
            "method": "canonical correlations, then symmetric InfoNCE",
            "embedding_width": self.embedding_width,
            "image_shrinkage": self.shrinkage[0],
            "text_shrinkage": self.shrinkage[1],
            "correlation_power": self.correlation_power,
            **vars(self.contrastive),
        }

    def identity(self) -> Identity:
        """The vision tower's identity: projections change neither tokens nor features."""
        return self.vision.identity()

    def text_identity(self) -> Identity:
        """The sentence encoder's identity."""
        return self.text.text_identity()

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """The pixels of one image, as the vision tower expects them."""
        return self.vision.preprocess(image)

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageEncoding:
        """Tokens and pooled features of the vision tower."""
        return self.vision.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch text_features"]:
        """Features of the sentence encoder."""
        return self.text.encode_texts(texts)

    @torch.enable_grad()
    def fit(
        self,
        image_features: Float[Tensor, "images features"],
        text_features: Float[Tensor, "captions text_features"],
        image_of_caption: Int[Tensor, "captions"],
        *,
        seed: int,
    ) -> dict[str, float]:
        """Fit the projections on matching images and captions; returns figures of the fit.

        Every image needs a caption; `image_of_caption` holds rows of `image_features`.

        Raises:
            EdjeError: fewer than two images, or an image without a caption.
        """
        counts = torch.bincount(image_of_caption, minlength=len(image_features))
        if len(image_features) < 2 or len(counts) > len(image_features) or not counts.all():
            raise EdjeError(
                f"the projections can't be fitted on {len(image_features)} images with "
                f"{len(image_of_caption)} captions: expected at least two images, each with a "
                "caption. Check the training split."
            )
        image = nn.functional.normalize(image_features.detach().float().clone(), dim=-1)
        text = text_features.detach().float().clone()
        image_mean, image_scale = _moments(image)
        text_mean, text_scale = _moments(text)
        start = canonical_maps(
            image - image_mean,
            text - text_mean,
            image_of_caption,
            self.embedding_width,
            *self.shrinkage,
            self.correlation_power,
        )
        standardised = Pair(
            LinearMap(start.image.weight * image_scale[:, None], start.image.bias),
            LinearMap(start.text.weight * text_scale[:, None], start.text.bias),
        )
        trained, loss = contrastive_maps(
            standardised,
            (image - image_mean) / image_scale,
            (text - text_mean) / text_scale,
            image_of_caption,
            self.contrastive,
            seed,
        )
        fitted = Pair(
            _unstandardised(trained.image, image_mean, image_scale),
            _unstandardised(trained.text, text_mean, text_scale),
        )
        self.load_first_stage_state(dict(zip(self._shapes(), fitted.tensors(), strict=True)))
        return {"images": len(image), "captions": len(text), "loss": loss}

    def first_stage_state(self) -> dict[str, Tensor]:
        """The fitted projections, to be stored in a checkpoint.

        Raises:
            EdjeError: nothing is fitted yet.
        """
        return dict(zip(self._shapes(), self._projections().tensors(), strict=True))

    def load_first_stage_state(self, state: dict[str, Tensor]) -> None:
        """Load projections saved by `first_stage_state`.

        Raises:
            EdjeError: their widths don't fit, or they aren't projections.
        """
        expected = self._shapes()
        got = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if got != expected:
            raise EdjeError(
                f"the first stage's state holds {got}; this backbone expects {expected}. Give the "
                "backbone that it was fitted for, or fit it again."
            )
        for name, tensor in state.items():
            self.get_buffer(name).copy_(tensor)
        self.fitted = True

    def project_images(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised embeddings of stored image features."""
        return self._projections().image(nn.functional.normalize(features, dim=-1))

    def project_texts(
        self, features: Float[Tensor, "batch text_features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised embeddings of stored caption features."""
        return self._projections().text(features)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the projections."""
        return {
            "image_weight": (self.feature_width, self.embedding_width),
            "image_bias": (self.embedding_width,),
            "text_weight": (self.text_width, self.embedding_width),
            "text_bias": (self.embedding_width,),
        }

    def _projections(self) -> Pair:
        if not self.fitted:
            raise EdjeError(
                "the aligned backbone has no projections yet: fit them on a training split "
                "(`edje task=cache`), or load those of a checkpoint."
            )
        buffers = [self.get_buffer(name) for name in self._shapes()]
        return Pair(LinearMap(*buffers[:2]), LinearMap(*buffers[2:]))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation per feature; a constant feature gets the mean deviation."""
    deviation = features.std(dim=0, correction=0)
    constant = deviation < 1e-6 * deviation.mean()
    return features.mean(dim=0), deviation.masked_fill(constant, deviation.mean().item() or 1.0)


def _unstandardised(linear: LinearMap, mean: Tensor, scale: Tensor) -> LinearMap:
    """The same map for features that are not standardised."""
    weight = linear.weight / scale[:, None]
    return LinearMap(weight, linear.bias - mean @ weight)
