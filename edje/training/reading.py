"""Shared by the parts of a training step: its pairs, and texts and images that are read once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edje.models.edje import EDJE
from edje.objectives.negatives import Negatives, similarities
from edje.parallel.collectives import join_first, joined
from edje.records import PairBatch, TextBatch
from edje.training.counts import StepCounts
from edje.training.joined_pairs import JoinedPairs


@dataclass(frozen=True)
class MinedPairs:
    """The pairs of a step: B positives, B·n with wrong images, B·n with wrong captions.

    Rows count the pairs of all ranks. The first stage's scores of each sample's candidates are
    included, by caption and by image, the positive first.
    """

    negatives: Negatives
    captions: Int[Tensor, "pairs"]
    images: Int[Tensor, "pairs"]
    t2i_scores: Float[Tensor, "batch candidates"]
    i2t_scores: Float[Tensor, "batch candidates"]

    @classmethod
    def of(cls, negatives: Negatives, everyone: JoinedPairs) -> "MinedPairs":
        """Lay out this rank's positives and the negatives mined for them."""
        batch, count = negatives.images.shape
        first = everyone.first
        own = torch.arange(first, first + batch, device=negatives.images.device)
        repeated, column = own.repeat_interleave(count), own[:, None]
        similarity = similarities(everyone.text_embeddings, everyone.image_embeddings)
        return cls(
            negatives,
            torch.cat([own, repeated, negatives.captions.flatten()]),
            torch.cat([own, negatives.images.flatten(), repeated]),
            similarity[column, torch.cat([column, negatives.images], 1)],
            similarity[torch.cat([column, negatives.captions], 1), column],
        )

    def candidates_of(self, pairs: Float[Tensor, "pairs *features"]) -> tuple[Tensor, Tensor]:
        """Values of these pairs by caption and by image, the positive first.

        Each is (batch, 1 + n, *features).
        """
        batch, count = self.negatives.images.shape
        positives, images, captions = pairs.split([batch, batch * count, batch * count])
        shape = (batch, count, *pairs.shape[1:])
        return (
            torch.cat([positives[:, None], images.view(shape)], dim=1),
            torch.cat([positives[:, None], captions.view(shape)], dim=1),
        )


@dataclass(frozen=True)
class StepInputs:
    """The inputs of a step; this rank's pairs are rows `own` of those of all ranks."""

    batch: PairBatch
    text: TextBatch  # the batch's, cut to go before an image
    everyone: JoinedPairs
    counts: StepCounts
    mined: MinedPairs | None  # None: no part reads pairs
    mask: Bool[Tensor, "batch length"] | None  # words of the text to mask

    @property
    def own(self) -> slice:
        """This rank's rows."""
        return slice(self.everyone.first, self.everyone.first + len(self.text.input_ids))

    @property
    def padded(self) -> bool:
        """Whether a text of some rank has padding."""
        return self.counts.padded(self.text.input_ids)


@dataclass(frozen=True)
class Reading:
    """Texts and images where they join, each read once; pairs refer to their rows.

    Every image is compressed and every caption read on its own rank. What other ranks contrast
    with it is sent to them, including gradients.
    """

    states: Float[Tensor, "texts length text_width"]  # captions of all ranks, then own masked ones
    attention: Bool[Tensor, "texts length"]
    visual: Float[Tensor, "images tokens width"]
    masked_text: int  # first row of the masked captions
    masked_image: int  # first row of their images

    @classmethod
    def of(cls, model: EDJE, given: StepInputs, contrasted: bool, mask_id: int) -> "Reading":
        """Read the captions if they are `contrasted`, and the masked ones if there is a mask.

        If nothing is contrasted, texts and images are only this rank's.
        """
        text, count = given.text, len(given.text.input_ids)
        ids = [text.input_ids] if contrasted else []
        if given.mask is not None:
            ids.append(text.input_ids.masked_fill(given.mask, mask_id))
        attention = text.attention_mask.repeat(len(ids), 1)
        states = model.joint.read_text(torch.cat(ids), attention, given.padded)
        visual = model.compress(given.batch.tokens)
        if not contrasted:
            return cls(states, attention, visual, 0, 0)
        states, attention = join_first(states, count), join_first(attention, count)
        total = len(given.everyone.sample_ids)
        return cls(states, attention, joined(visual), total, given.everyone.first)


@dataclass(frozen=True)
class FusedPairs:
    """Pairs after the joint layers: the mined ones, then the masked captions."""

    texts: Int[Tensor, "pairs"]  # rows of the reading
    visual: Float[Tensor, "pairs tokens width"]
    hidden: Float[Tensor, "pairs sequence width"]
    num_mined: int

    @classmethod
    def of(cls, model: EDJE, given: StepInputs, reading: Reading) -> "FusedPairs":
        """All pairs of the step in one batch of the joint encoder."""
        texts, images = [], []
        if given.mined is not None:
            texts.append(given.mined.captions)
            images.append(given.mined.images)
        if given.mask is not None:
            own = torch.arange(len(given.mask), device=given.mask.device)
            texts.append(own + reading.masked_text)
            images.append(own + reading.masked_image)
        # Not by [row]: on a CPU, torch would then sum gradients in the threads' random order.
        row, seen = torch.cat(texts), reading.visual.index_select(0, torch.cat(images))
        states = reading.states.index_select(0, row)
        hidden = model.joint.fuse(states, reading.attention[row], seen, given.padded)
        return cls(row, seen, hidden, 0 if given.mined is None else len(given.mined.images))
