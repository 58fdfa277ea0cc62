"""The parts of a training step that objectives read, computed from the shared reading."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from edje.models.edje import EDJE
from edje.models.heads import word_positions
from edje.objectives.outputs import AlignedPairs, MaskedWords, PairLogits, Presence, RecoveredText
from edje.parallel.collectives import joined, mean_over_ranks, num_ranks
from edje.training.counts import places_of
from edje.training.reading import FusedPairs, MinedPairs, Reading, StepInputs


def pair_logits(
    model: EDJE, given: StepInputs, mined: MinedPairs, reading: Reading, fused: FusedPairs
) -> PairLogits:
    """Match logits of the mined pairs."""
    count = fused.num_mined
    evidence = model.pair_evidence(
        reading.states, reading.attention, fused.texts[:count], fused.visual[:count]
    )
    t2i, i2t = candidate_logits(model, mined, fused.hidden[:count, 0], evidence)
    found, missing = mined.negatives, given.counts
    return PairLogits(
        t2i,
        i2t,
        presence(found.images_found, missing.missing_images),
        presence(found.captions_found, missing.missing_captions),
    )


def candidate_logits(
    model: EDJE,
    mined: MinedPairs,
    states: Float[Tensor, "pairs width"],
    evidence: Float[Tensor, "pairs"] | None,
) -> tuple[Float[Tensor, "batch candidates"], Float[Tensor, "batch candidates"]]:
    """Match logits of each direction from the [CLS] states (and evidence) of the mined pairs."""
    image_states, caption_states = mined.candidates_of(states)
    image_evidence = caption_evidence = None
    if evidence is not None:
        image_evidence, caption_evidence = mined.candidates_of(evidence)
    return (
        model.match_logits(image_states, "t2i", mined.t2i_scores, image_evidence),
        model.match_logits(caption_states, "i2t", mined.i2t_scores, caption_evidence),
    )


def presence(found: Bool[Tensor, "batch n"] | None, missing: int) -> Presence | None:
    """Which candidates are present, from the negatives that were found; None: all, on every rank.

    `missing` counts the missing negatives of all ranks.
    """
    if found is None or not missing:
        return None
    return Presence(
        F.pad(found, (1, 0), value=True),
        mean_over_ranks(found.any(dim=1).sum(), found.device),
        mean_over_ranks(found.sum(), found.device),
    )


def masked_words(
    model: EDJE, given: StepInputs, mask: Bool[Tensor, "batch length"], fused: FusedPairs
) -> MaskedWords:
    """Logits of the masked word pieces, from the masked captions read with their images."""
    places = places_of(mask, given.counts.masked)
    words = fused.hidden[fused.num_mined :, : mask.shape[1]].flatten(0, 1)
    logits = model.masked_language(
        words.index_select(0, places), model.joint.word_embeddings.weight
    )
    labels = given.text.input_ids.flatten().index_select(0, places)
    alone = num_ranks() == 1
    count = None if alone else mean_over_ranks(given.counts.masked, mask.device)
    return MaskedWords(logits, labels, count)


def recovered_text(model: EDJE, given: StepInputs) -> RecoveredText:
    """The uncut captions, read without an image and projected to the dual encoder's width."""
    text = given.batch.text
    alone = model.joint.encode_text(
        text.input_ids, text.attention_mask, given.counts.padded(text.input_ids)
    )
    return RecoveredText(model.text_recovery(alone[:, 0]), given.batch.text_embeddings)


def aligned_pairs(model: EDJE, given: StepInputs, reading: Reading) -> AlignedPairs:
    """Alignment of own captions and images with those of all ranks."""
    own, total = given.own, len(given.everyone.sample_ids)
    words, present = reading.states[:total], word_positions(reading.attention[:total])
    t2i = model.alignment(words[own], present[own], reading.visual)
    i2t = None if num_ranks() == 1 else model.alignment(words, present, reading.visual[own]).T
    same, same_i2t = given.everyone.same(own)
    return AlignedPairs(t2i, same, i2t, same_i2t, own.start)


@torch.no_grad()
def teacher_logits(
    teacher: EDJE, given: StepInputs, mined: MinedPairs, reading: Reading
) -> PairLogits:
    """A frozen reranker's match logits of the mined pairs, from its own stored tokens if given."""
    text, stored = given.text, given.batch.teacher_tokens
    tokens = teacher.compress(given.batch.tokens) if stored is None else stored
    visual = joined(tokens)[mined.images]
    states = joined(teacher.joint.read_text(text.input_ids, text.attention_mask, given.padded))
    attention = reading.attention[: len(states)]
    hidden = teacher.joint.fuse(
        states[mined.captions], attention[mined.captions], visual, given.padded
    )
    evidence = teacher.pair_evidence(states, attention, mined.captions, visual)
    return PairLogits(*candidate_logits(teacher, mined, hidden[:, 0], evidence))
