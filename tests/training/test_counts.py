"""Claims about what a step counts before it begins."""

import pytest
import torch

from edje.objectives.negatives import HardNegatives
from edje.records import TextBatch
from edje.training.counts import StepCounts, places_of
from edje.training.step import masked_positions
from tests.tiny.rerankers import tiny_pairs, tiny_reranker


def text(lengths: list[int], longest: int) -> TextBatch:
    present = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return TextBatch(present.long(), present)


def test_what_is_missing_masked_and_padded_is_counted():
    """One caption for all images but one, so that of two wrong ones there is at most one."""
    batch, ids = tiny_pairs(5), torch.arange(5)
    keys = torch.tensor([0, 0, 0, 0, 1])
    negatives = HardNegatives(count=2, pool=3)(
        batch.image_embeddings, batch.text_embeddings, ids, keys, ids, 0, 0
    )
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    counts = StepCounts.of(negatives, mask, text([4, 3, 3], 4))
    assert counts == StepCounts(missing_images=4, missing_captions=5, masked=3, shortest=3)
    assert counts.padded(torch.zeros(3, 4)) and not counts.padded(torch.zeros(3, 3))  # cut to 3
    assert StepCounts.of(None, None, text([4, 4], 4)) == StepCounts(0, 0, 0, 4)


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_masked_places_are_those_that_a_boolean_index_takes_and_so_are_their_gradients(chance):
    generator = torch.Generator().manual_seed(int(10 * chance))
    mask = torch.rand(7, 9, generator=generator) < chance
    places = places_of(mask, int(mask.sum()))
    assert torch.equal(places, mask.flatten().nonzero()[:, 0])
    found = []
    for take in (
        lambda s: s[:, :9][mask],
        lambda s: s[:, :9].flatten(0, 1).index_select(0, places),
    ):
        states = torch.randn(7, 12, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        taken = take(states)
        taken.square().sum().backward()
        found.append((taken.detach(), states.grad))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("fusion_layer", [0, 1])
def test_a_mask_that_is_known_to_be_padded_or_full_gives_what_one_that_is_looked_at_gives(
    fusion_layer,
):
    model, batch = tiny_reranker(fusion_layer=fusion_layer), tiny_pairs(8)
    visual = model.compress(batch.tokens)
    full = TextBatch(batch.text.input_ids[:, :3], torch.ones(8, 3, dtype=torch.bool))
    for words, padded in ((batch.text, True), (full, False)):
        ids, mask = words.input_ids, words.attention_mask
        assert bool(mask.all()) is not padded
        states = model.joint.read_text(ids, mask)
        assert torch.equal(states, model.joint.read_text(ids, mask, padded))
        fused = model.joint.fuse(states, mask, visual)
        assert torch.equal(fused, model.joint.fuse(states, mask, visual, padded))
        alone = model.joint.encode_text(ids, mask)
        assert torch.equal(alone, model.joint.encode_text(ids, mask, padded))


def test_padding_is_masked_as_transformers_itself_does(monkeypatch):
    model, batch = tiny_reranker(), tiny_pairs(8)
    ids, mask = batch.text.input_ids, batch.text.attention_mask
    ours = model.joint.encode_text(ids, mask)
    monkeypatch.setattr(type(model.joint), "_for_attention", lambda self, given: given.long())
    assert torch.equal(ours, model.joint.encode_text(ids, mask))


def test_a_text_that_is_cut_ends_with_a_separator():
    model = tiny_reranker()
    limit = model.joint.max_text_tokens
    lengths = [limit + 2, limit, limit + 1, 3]
    cut = model.joint.cut(text(lengths, limit + 2))
    last = cut.input_ids[:, -1].tolist()
    assert last == [model.joint.separator_id, 1, model.joint.separator_id, 0]
    assert masked_positions(cut, torch.arange(4), 1.0, 0, 0).sum(1).tolist() == [
        limit - 2, limit - 2, limit - 2, 1,
    ]  # fmt: skip
