"""The interface of a backbone: its tokens, its features, its two embeddings."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

Identity = dict[str, str | int | float]


@dataclass(frozen=True)
class ImageEncoding:
    """A vision tower's output for a batch of images: tokens to store, features to project."""

    tokens: Float[Tensor, "batch tokens width"]
    features: Float[Tensor, "batch features"]


class VisionBackbone(Protocol):
    """A frozen vision tower, always in evaluation mode.

    `num_heads` and `layer_norm_eps` are the tower's; adapters copy them.
    """

    num_tokens: int
    token_width: int
    feature_width: int
    num_heads: int
    layer_norm_eps: float

    @abstractmethod
    def identity(self) -> Identity:
        """What makes stored tokens comparable: weights, layer, preprocessing, token count, width.

        Two backbones with equal identities give the same tokens and features for an image.
        """
        ...

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """The pixels that `encode_images` expects of one RGB image."""
        ...

    @abstractmethod
    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> ImageEncoding:
        """Tokens and unprojected features, in float32 and without gradients."""
        ...


class TextEncoder(Protocol):
    """A frozen text tower, always in evaluation mode."""

    text_width: int

    @abstractmethod
    def text_identity(self) -> Identity:
        """What makes stored caption features comparable."""
        ...

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch text_features"]:
        """Unprojected features of cleaned captions, in float32 and without gradients."""
        ...


@runtime_checkable
class Backbone(VisionBackbone, TextEncoder, Protocol):
    """A dual encoder: both towers, and projections into one space where cosine similarity ranks.

    Stores hold tokens and features, never embeddings, so that a refit of the projections leaves
    every store valid.
    """

    embedding_width: int

    @abstractmethod
    def project_images(
        self, features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised image embeddings."""
        ...

    @abstractmethod
    def project_texts(
        self, features: Float[Tensor, "batch text_features"]
    ) -> Float[Tensor, "batch embedding"]:
        """L2-normalised caption embeddings."""
        ...
