"""The outputs of one training step, and the base class of objectives."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Part = Literal["pairs", "masked", "text_only", "alignment", "teacher"]


@dataclass(frozen=True)
class Presence:
    """Which candidates a direction's samples have, if a batch holds fewer than requested.

    The positive, column 0, is always present. The counts are means over ranks, so that the mean of
    the ranks' means is the mean over all.
    """

    candidates: Bool[Tensor, "batch candidates"]
    rows: Float[Tensor, ""]  # samples with a negative
    negatives: Float[Tensor, ""]

    @property
    def has_negative(self) -> Bool[Tensor, "batch"]:
        """Samples with at least one negative."""
        return self.candidates[:, 1:].any(dim=1)


@dataclass(frozen=True)
class PairLogits:
    """Match logits of every sample's candidates: column 0 is the positive, the others are mined."""

    t2i: Float[Tensor, "batch candidates"]  # caption against images
    i2t: Float[Tensor, "batch candidates"]  # image against captions
    t2i_presence: Presence | None = None  # None: every candidate is present
    i2t_presence: Presence | None = None


@dataclass(frozen=True)
class MaskedWords:
    """The prediction for every masked word piece, and its true value."""

    logits: Float[Tensor, "masked vocabulary"]
    labels: Int[Tensor, "masked"]
    count: Float[Tensor, ""] | None = None  # mean over ranks; None: the number of these labels


@dataclass(frozen=True)
class RecoveredText:
    """The joint encoder's texts in the dual encoder's space, and the dual encoder's texts."""

    embeddings: Float[Tensor, "batch embedding"]
    targets: Float[Tensor, "batch embedding"]


@dataclass(frozen=True)
class AlignedPairs:
    """How well words and visual tokens agree, -1 to 1, for every caption with every image.

    A rank holds its own captions with the images of all ranks, and its own images with all
    captions. A single rank holds one matrix, whose transpose is the other.
    """

    t2i: Float[Tensor, "own pairs"]  # own captions with all images
    same: Bool[Tensor, "own pairs"]  # matching pairs, also those across samples
    i2t: Float[Tensor, "own pairs"] | None = None  # own images, all captions; None: t2i transposed
    same_i2t: Bool[Tensor, "own pairs"] | None = None
    first: int = 0  # index of this rank's first pair among all ranks' pairs


@dataclass(frozen=True)
class StepOutputs:
    """One step's parts, by name; a part that no objective needs is None.

    On several ranks each holds the rows of its own pairs, and the mean of the ranks' losses is the
    total loss.
    """

    pairs: PairLogits | None = None
    masked: MaskedWords | None = None
    text_only: RecoveredText | None = None
    alignment: AlignedPairs | None = None
    teacher: PairLogits | None = None  # of the same pairs


def mean_of_rows(values: Float[Tensor, "batch"], presence: Presence | None) -> Float[Tensor, ""]:
    """The mean over the samples that have a negative; zero if none has."""
    if presence is None:
        return values.mean()
    return (values * presence.has_negative).sum() / presence.rows.clamp(min=1e-3)


def mean_of_negatives(
    values: Float[Tensor, "batch negatives"], presence: Presence | None
) -> Float[Tensor, ""]:
    """The mean over the negatives that are present; zero if there are none."""
    if presence is None:
        return values.mean()
    return (values * presence.candidates[:, 1:]).sum() / presence.negatives.clamp(min=1e-3)


def without_absent(
    logits: Float[Tensor, "batch candidates"], presence: Presence | None
) -> Float[Tensor, "batch candidates"]:
    """Logits with absent candidates at a very low, finite value, so that softmax gives them 0."""
    if presence is None:
        return logits
    return logits.masked_fill(~presence.candidates, torch.finfo(logits.dtype).min / 4)


class Objective(ABC):
    """A term of the training loss: outputs of a step in, a scalar out.

    `needs` names the parts of the step that the term reads, so that nothing is computed for
    disabled terms. `weight` is applied elsewhere, once.
    """

    needs: ClassVar[frozenset[Part]] = frozenset()

    def __init__(self, *, weight: float = 1.0):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight}: expected at least 0")
        self.weight = weight

    @abstractmethod
    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """The unweighted value of the term."""
