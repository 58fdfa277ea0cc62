"""The typed records passed between the layers; nothing here computes."""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Direction = Literal["t2i", "i2t"]
DIRECTIONS: tuple[Direction, Direction] = ("t2i", "i2t")


@dataclass(frozen=True, slots=True)  # a large set has hundreds of thousands
class CaptionRecord:
    """One caption of one image, as its source gives it (not yet cleaned)."""

    caption_id: str
    image_id: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image: its id (unique in its data set) and the file that holds its pixels."""

    image_id: str
    path: str


@dataclass(frozen=True)
class RetrievalSplit:
    """One split of an image-caption data set; images sorted by id, captions grouped by image.

    Every caption's image is among the images, and every image has at least one caption.
    """

    dataset: str
    name: str
    images: tuple[ImageRecord, ...]
    captions: tuple[CaptionRecord, ...]
    skipped: tuple[str, ...] = ()  # images left out under the policy bad_images=skip

    def image_of_caption(self) -> list[int]:
        """Row in `images` of each caption's image."""
        rows = {image.image_id: row for row, image in enumerate(self.images)}
        return [rows[caption.image_id] for caption in self.captions]

    def restricted(self, image_ids: Container[str]) -> "RetrievalSplit":
        """The images with these ids, and their captions."""
        return replace(
            self,
            images=tuple(image for image in self.images if image.image_id in image_ids),
            captions=tuple(caption for caption in self.captions if caption.image_id in image_ids),
        )


@dataclass(frozen=True)
class TextBatch:
    """Tokenised texts, padded on the right: `[CLS] caption [SEP]`, padding where the mask is 0."""

    input_ids: Int[Tensor, "batch length"]
    attention_mask: Bool[Tensor, "batch length"]


@dataclass(frozen=True)
class PairBatch:
    """Matching (image, caption) pairs for one training step, row by row."""

    sample_ids: Int[Tensor, "batch"]  # the caption's row in the training set: seeds its mask
    image_ids: Int[Tensor, "batch"]  # the image's row: equal rows are never negatives
    caption_keys: Int[Tensor, "batch"]  # equal for captions with equal cleaned text
    tokens: Float[Tensor, "batch tokens width"]  # vision tokens of the backbone
    text: TextBatch
    image_embeddings: Float[Tensor, "batch embedding"]  # L2-normalised, of the first stage
    text_embeddings: Float[Tensor, "batch embedding"]
    teacher_tokens: Float[Tensor, "batch given teacher_width"] | None = None  # a teacher's visual


@dataclass(frozen=True)
class CandidateList:
    """The first stage's candidates for each query of one direction, best first.

    Candidates are rows of the split's images (t2i) or captions (i2t). `relevant` marks the
    candidates that match the query; a relevant item that retrieval missed is not in the list.
    """

    direction: Direction
    candidates: Int[Tensor, "queries pool"]
    scores: Float[Tensor, "queries pool"]
    relevant: Bool[Tensor, "queries pool"]
    num_relevant: Int[Tensor, "queries"]  # relevant items in the whole collection
