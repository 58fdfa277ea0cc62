"""One training step's forward: all the pairs of the step in one batch of the joint encoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from edje.models.edje import EDJE
from edje.models.heads import word_positions
from edje.objectives.draws import uniform
from edje.objectives.negatives import Negatives, similarities
from edje.objectives.outputs import Part, Presence, StepOutputs
from edje.parallel.collectives import join_first, joined, mean_over_ranks, num_ranks
from edje.records import PairBatch, TextBatch
from edje.training.counts import StepCounts, places_of
from edje.training.joined_pairs import JoinedPairs


@dataclass(frozen=True)
class PairIndices:
    """Which caption meets which image: B positives, B·n wrong images, B·n wrong captions.

    Rows count the pairs of all ranks.
    """

    captions: Int[Tensor, "pairs"]
    images: Int[Tensor, "pairs"]

    @classmethod
    def of(cls, negatives: Negatives, first: int = 0) -> "PairIndices":
        """Lay out the positives, from row `first` on, and the negatives mined for them."""
        batch, count = negatives.images.shape
        own = torch.arange(first, first + batch, device=negatives.images.device)
        repeated = own.repeat_interleave(count)
        return cls(
            torch.cat([own, repeated, negatives.captions.flatten()]),
            torch.cat([own, negatives.images.flatten(), repeated]),
        )


def masked_positions(
    text: TextBatch, sample_ids: Tensor, probability: float, seed: int, step: int
) -> Bool[Tensor, "batch length"]:
    """Which word pieces become [MASK]: each of a caption's, never [CLS], [SEP] or padding.

    A function of (seed, step, sample id, position) alone.
    """
    columns = torch.arange(text.input_ids.shape[1], device=text.input_ids.device)
    return word_positions(text.attention_mask) & (
        uniform(seed, step, 3, sample_ids[:, None], columns) < probability
    )


def pair_logits(
    model: EDJE,
    states: Float[Tensor, "pairs width"],
    similarity: Tensor,
    negatives: Negatives,
    first: int = 0,
    evidence: Float[Tensor, "pairs"] | None = None,
) -> tuple[Float[Tensor, "batch candidates"], Float[Tensor, "batch candidates"]]:
    """Match logits per direction from the [CLS] states (and evidence) of `PairIndices`' pairs.

    `similarity` is the first stage's (captions, images) matrix of all ranks' pairs, of which this
    rank's own begin at row `first`.
    """
    batch, count = negatives.images.shape
    own = torch.arange(first, first + batch, device=states.device)
    image_states, caption_states = candidates_of(states, batch, count)
    image_evidence = caption_evidence = None
    if evidence is not None:
        image_evidence, caption_evidence = candidates_of(evidence, batch, count)
    image_scores = similarity[own[:, None], torch.cat([own[:, None], negatives.images], 1)]
    caption_scores = similarity[torch.cat([own[:, None], negatives.captions], 1), own[:, None]]
    return (
        model.match_logits(image_states, "t2i", image_scores, image_evidence),
        model.match_logits(caption_states, "i2t", caption_scores, caption_evidence),
    )


def candidates_of(
    pairs: Float[Tensor, "pairs *features"], batch: int, count: int
) -> tuple[Tensor, Tensor]:
    """Values of `PairIndices`' pairs by caption and by image, the positive first.

    Each is (batch, 1 + count, *features).
    """
    positives, images, captions = pairs.split([batch, batch * count, batch * count])
    shape = (batch, count, *pairs.shape[1:])
    return (
        torch.cat([positives[:, None], images.view(shape)], dim=1),
        torch.cat([positives[:, None], captions.view(shape)], dim=1),
    )


def presence(found: Bool[Tensor, "batch n"] | None, missing: int) -> Presence | None:
    """Which candidates there are, given which negatives were found; None: all, on every rank.

    `missing` counts those of all ranks.
    """
    if found is None or not missing:
        return None
    return Presence(
        F.pad(found, (1, 0), value=True),
        mean_over_ranks(found.any(dim=1).sum(), found.device),
        mean_over_ranks(found.sum(), found.device),
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
    """Everything the objectives read, and nothing that none of them does.

    On several ranks each computes the rows of its own pairs. Every image is compressed and every
    caption read on its own rank; what others contrast with it travels, gradients included.

    Args:
        model: the reranker in training.
        batch: B matching pairs with the backbone's tokens; texts as long on every rank.
        negatives: of this rank's pairs, rows of all ranks'; only with "pairs" among the needs.
        needs: the parts that some objective reads.
        mask: positions of the (cut) text to be masked; only with "masked" among the needs.
        mask_id: word-piece id of [MASK].
        teacher: the frozen reranker to distil from; only with "teacher" among the needs.
        everyone: the pairs of all ranks; by default gathered here.
        counts: of the batch, where they are known; counted here on one rank only.
    """
    text = model.joint.cut(batch.text)
    counts = StepCounts.of(negatives, mask, batch.text) if counts is None else counts
    padded = counts.padded(text.input_ids)
    everyone = JoinedPairs.of(batch) if everyone is None else everyone
    first, total, own_count = everyone.first, len(everyone.sample_ids), len(text.input_ids)
    pairs = None if negatives is None else PairIndices.of(negatives, first)
    similarity = similarities(everyone.text_embeddings, everyone.image_embeddings)

    # Texts are read once: captions as they are, then masked ones; pairs point at their rows.
    plain = pairs is not None or "alignment" in needs
    ids = [text.input_ids] if plain else []
    if mask is not None:
        ids.append(text.input_ids.masked_fill(mask, mask_id))
    if ids:
        attention = text.attention_mask.repeat(len(ids), 1)
        states = model.joint.read_text(torch.cat(ids), attention, padded)
        all_visual = model.compress(batch.tokens)
    if plain:  # others' captions and images are contrasted with ours
        states, attention = join_first(states, own_count), join_first(attention, own_count)
        all_visual = joined(all_visual)
    rows, images = [], []  # of the pairs first, of the masked captions after them
    if pairs is not None:
        rows.append(pairs.captions)
        images.append(pairs.images)
    if mask is not None:
        own = torch.arange(own_count, device=mask.device)
        rows.append(own + total if plain else own)
        images.append(own + first if plain else own)
    if rows:
        # Not by [row]: on a CPU, torch then adds up gradients in the order that threads come in.
        row, seen = torch.cat(rows), all_visual.index_select(0, torch.cat(images))
        hidden = model.joint.fuse(states.index_select(0, row), attention[row], seen, padded)

    count = 0 if pairs is None else len(pairs.images)
    t2i = i2t = masked_logits = masked_labels = masked_count = recovered = None
    alignment = alignment_i2t = same = same_i2t = teacher_t2i = teacher_i2t = None
    of_t2i = of_i2t = None
    if negatives is not None:
        evidence = model.pair_evidence(states, attention, row[:count], seen[:count])
        t2i, i2t = pair_logits(model, hidden[:count, 0], similarity, negatives, first, evidence)
        of_t2i = presence(negatives.images_found, counts.missing_images)
        of_i2t = presence(negatives.captions_found, counts.missing_captions)
    if mask is not None:
        places = places_of(mask, counts.masked)
        words = hidden[count:, : mask.shape[1]].flatten(0, 1)
        masked_logits = model.masked_language(
            words.index_select(0, places), model.joint.word_embeddings.weight
        )
        masked_labels = text.input_ids.flatten().index_select(0, places)
        if num_ranks() > 1:
            masked_count = mean_over_ranks(counts.masked, mask.device)
    if "text_only" in needs:
        alone = model.joint.encode_text(
            batch.text.input_ids, batch.text.attention_mask, counts.padded(batch.text.input_ids)
        )
        recovered = model.text_recovery(alone[:, 0])
    if "alignment" in needs:
        mine = slice(first, first + own_count)
        words, present = states[:total], word_positions(attention[:total])
        alignment = model.alignment(words[mine], present[mine], all_visual)
        if num_ranks() > 1:
            alignment_i2t = model.alignment(words, present, all_visual[mine]).T
        same, same_i2t = everyone.same(mine)
    if "teacher" in needs:
        assert teacher is not None and pairs is not None and negatives is not None
        with torch.no_grad():
            stored = batch.teacher_tokens
            given = teacher.compress(batch.tokens) if stored is None else stored
            known = joined(given)[pairs.images]
            read = joined(teacher.joint.read_text(text.input_ids, text.attention_mask, padded))
            taught = teacher.joint.fuse(
                read[pairs.captions], attention[pairs.captions], known, padded
            )
            evidence = teacher.pair_evidence(read, attention[:total], pairs.captions, known)
            teacher_t2i, teacher_i2t = pair_logits(
                teacher, taught[:, 0], similarity, negatives, first, evidence
            )
    return StepOutputs(
        first=first,
        t2i_logits=t2i,
        i2t_logits=i2t,
        t2i_presence=of_t2i,
        i2t_presence=of_i2t,
        masked_logits=masked_logits,
        masked_labels=masked_labels,
        masked_count=masked_count,
        recovered=recovered,
        text_embeddings=batch.text_embeddings,
        alignment=alignment,
        alignment_i2t=alignment_i2t,
        same=same,
        same_i2t=same_i2t,
        teacher_t2i_logits=teacher_t2i,
        teacher_i2t_logits=teacher_i2t,
    )
