"""What one training step computes, and what every objective shares."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Part = Literal["pairs", "masked", "text_only", "alignment", "teacher"]


@dataclass(frozen=True)
class Presence:
    """Which candidates a direction's samples have, where a batch holds fewer than asked for.

    The positive, column 0, is always there. The counts are means over ranks, so that the mean of
    the ranks' means is the mean over all.
    """

    candidates: Bool[Tensor, "batch candidates"]
    rows: Float[Tensor, ""]  # samples with a negative
    negatives: Float[Tensor, ""]

    @property
    def has_negative(self) -> Bool[Tensor, "batch"]:
        """Samples with something to tell the positive from."""
        return self.candidates[:, 1:].any(dim=1)


@dataclass(frozen=True)
class PairLogits:
    """Match logits of every sample's candidates: column 0 is the positive, the others are mined."""

    t2i: Float[Tensor, "batch candidates"]  # caption against images
    i2t: Float[Tensor, "batch candidates"]  # image against captions
    t2i_presence: Presence | None = None  # None: every candidate is there
    i2t_presence: Presence | None = None


@dataclass(frozen=True)
class MaskedWords:
    """What is said of every masked word piece, and what it was."""

    logits: Float[Tensor, "masked vocabulary"]
    labels: Int[Tensor, "masked"]
    count: Float[Tensor, ""] | None = None  # mean over ranks; None: these labels' own


@dataclass(frozen=True)
class RecoveredText:
    """The joint encoder's texts in the dual encoder's space, and the dual encoder's own."""

    embeddings: Float[Tensor, "batch embedding"]
    targets: Float[Tensor, "batch embedding"]


@dataclass(frozen=True)
class AlignedPairs:
    """How well words and visual tokens agree, -1 to 1, of every caption with every image.

    A rank holds its own captions with the images of all ranks, and its own images with all
    captions; alone it holds one matrix, whose transpose is the other.
    """

    t2i: Float[Tensor, "captions images"]  # own captions
    same: Bool[Tensor, "captions images"]  # matching pairs, those by chance included
    i2t: Float[Tensor, "images captions"] | None = None  # own images; None: t2i transposed
    same_i2t: Bool[Tensor, "images captions"] | None = None
    first: int = 0  # where this rank's pairs begin among those of all ranks


@dataclass(frozen=True)
class StepOutputs:
    """One step's parts, by their names; a part that no objective asked for is None.

    On several ranks each holds the rows of its own pairs, and the mean of their losses is the
    loss of all.
    """

    pairs: PairLogits | None = None
    masked: MaskedWords | None = None
    text_only: RecoveredText | None = None
    alignment: AlignedPairs | None = None
    teacher: PairLogits | None = None  # of the same pairs


def mean_of_rows(values: Float[Tensor, "batch"], presence: Presence | None) -> Float[Tensor, ""]:
    """The mean over the samples that have a negative; zero where none has."""
    if presence is None:
        return values.mean()
    return (values * presence.has_negative).sum() / presence.rows.clamp(min=1e-3)


def mean_of_negatives(
    values: Float[Tensor, "batch negatives"], presence: Presence | None
) -> Float[Tensor, ""]:
    """The mean over the negatives that are there; zero where none is."""
    if presence is None:
        return values.mean()
    return (values * presence.candidates[:, 1:]).sum() / presence.negatives.clamp(min=1e-3)


def without_absent(
    logits: Float[Tensor, "batch candidates"], presence: Presence | None
) -> Float[Tensor, "batch candidates"]:
    """Logits of which a softmax gives nothing to what isn't there; finite, so is what is added."""
    if presence is None:
        return logits
    return logits.masked_fill(~presence.candidates, torch.finfo(logits.dtype).min / 4)


class Objective:
    """A term of the training loss: outputs of a step in, a scalar out.

    `needs` names the parts of the step that the term reads, so that nothing is computed for a
    term that is off. `weight` is applied outside, once.
    """

    needs: ClassVar[frozenset[Part]] = frozenset()

    def __init__(self, *, weight: float = 1.0):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight}: expected at least 0")
        self.weight = weight

    def __call__(self, outputs: StepOutputs) -> Float[Tensor, ""]:
        """The unweighted value of the term."""
        raise NotImplementedError
