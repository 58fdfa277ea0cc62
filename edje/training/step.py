"""One training step's forward: all pairs of the step in one batch of the joint encoder."""

import torch
from jaxtyping import Bool
from torch import Tensor

from edje.models.edje import EDJE
from edje.models.heads import word_positions
from edje.objectives.draws import uniform
from edje.objectives.negatives import Negatives
from edje.objectives.outputs import Part, StepOutputs
from edje.records import PairBatch, TextBatch
from edje.training import step_parts as parts
from edje.training.counts import StepCounts
from edje.training.joined_pairs import JoinedPairs
from edje.training.reading import FusedPairs, MinedPairs, Reading, StepInputs


def masked_positions(
    text: TextBatch, sample_ids: Tensor, probability: float, seed: int, step: int
) -> Bool[Tensor, "batch length"]:
    """Which word pieces become [MASK]: only a caption's own, never [CLS], [SEP] or padding.

    Depends only on (seed, step, sample id, position).
    """
    columns = torch.arange(text.input_ids.shape[1], device=text.input_ids.device)
    return word_positions(text.attention_mask) & (
        uniform(seed, step, 3, sample_ids[:, None], columns) < probability
    )


def forward_step(
    model: EDJE,
    batch: PairBatch,
    negatives: Negatives | None,
    needs: frozenset[Part],
    mask: Bool[Tensor, "batch length"] | None,
    mask_id: int,
    teacher: EDJE | None,
    everyone: JoinedPairs | None = None,
    counts: StepCounts | None = None,
) -> StepOutputs:
    """Everything that some objective reads, and nothing else.

    On several ranks each computes the rows of its own pairs.

    Args:
        model: the reranker in training.
        batch: B matching pairs with the backbone's tokens; texts of equal length on every rank.
        negatives: for this rank's pairs, as rows of all ranks' pairs; only if `needs` has "pairs".
        needs: the parts that some objective reads.
        mask: positions of the (cut) text to mask; only if `needs` has "masked".
        mask_id: word-piece id of [MASK].
        teacher: the frozen reranker to distil from; only if `needs` has "teacher".
        everyone: the pairs of all ranks; by default gathered here.
        counts: of the batch, if known; otherwise counted here.
    """
    text = model.joint.cut(batch.text)
    counts = StepCounts.of(negatives, mask, batch.text) if counts is None else counts
    everyone = JoinedPairs.of(batch) if everyone is None else everyone
    mined = None if negatives is None else MinedPairs.of(negatives, everyone)
    given = StepInputs(batch, text, everyone, counts, mined, mask)
    reading = fused = pairs = masked = text_only = alignment = taught = None
    contrasted = mined is not None or "alignment" in needs
    if contrasted or mask is not None:
        reading = Reading.of(model, given, contrasted, mask_id)
    if reading is not None and (mined is not None or mask is not None):
        fused = FusedPairs.of(model, given, reading)
    # The order matters for parts with random dropout: it changes the numbers.
    if reading is not None and fused is not None and mined is not None:
        pairs = parts.pair_logits(model, given, mined, reading, fused)
    if fused is not None and mask is not None:
        masked = parts.masked_words(model, given, mask, fused)
    if "text_only" in needs:
        text_only = parts.recovered_text(model, given)
    if reading is not None and "alignment" in needs:
        alignment = parts.aligned_pairs(model, given, reading)
    if "teacher" in needs:
        assert teacher is not None and mined is not None and reading is not None
        taught = parts.teacher_logits(teacher, given, mined, reading)
    return StepOutputs(pairs, masked, text_only, alignment, taught)
