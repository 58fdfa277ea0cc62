"""start=canonical and =contrastive: what a reranker knows before any training step."""

from types import SimpleNamespace

import pytest
import torch

from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
)
from edje.language_model import tokenize
from edje.models.adapters import BackboneFacts
from edje.models.evidence import START_MEAN_SHARE
from edje.models.heads import word_positions
from edje.pipeline.canonical import canonical_start
from edje.pipeline.start import ContrastiveStart
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import FACTS, checkpoint_of
from tests.tiny.words import tiny_captions, tiny_tokenizer

POOLING = AdapterSpecification("edje.models.adapters.LinearPoolingAdapter", {"num_tokens": 4})
WIDE = BackboneFacts(16, 48, 2, 1e-6, 12)


def checkpoint(adapter=POOLING, facts=WIDE, evidence=True) -> Checkpoint:
    torch.manual_seed(0)
    language_model = tiny_language_model(fusion_layer=1, evidence=evidence)
    model = build_reranker(adapter, facts, language_model, False)
    return checkpoint_of(model, language_model, facts=facts, adapter=adapter)


class Store:
    """Tokens in memory, read like a store's."""

    def __init__(self, tokens):
        self.tokens = tokens

    def read(self, rows, *, device="cpu"):
        return self.tokens[rows].to(device)


def collection(start: Checkpoint, images: int = 60):
    """Images whose mean token is a linear map of their caption's mean word, and some noise."""
    texts = tuple(tiny_captions(images))
    words = tokenize(tiny_tokenizer(), texts)
    joint = start.model.eval().joint
    with torch.no_grad():
        states = joint.read_text(words.input_ids, words.attention_mask)
    present = word_positions(words.attention_mask).unsqueeze(-1)
    means = (states * present).sum(1) / present.sum(1)
    generator = torch.Generator().manual_seed(5)
    tokens = (means @ torch.randn(32, 48, generator=generator))[:, None].repeat(1, 16, 1)
    tokens += 0.1 * torch.randn(tokens.shape, generator=generator)
    rows = torch.arange(images)
    return SimpleNamespace(texts=texts, store=Store(tokens), store_rows=rows, image_of_caption=rows)


def recall(start: Checkpoint, data) -> float:
    model = start.model.eval()
    words = tokenize(tiny_tokenizer(), data.texts)
    with torch.no_grad():
        states = model.joint.read_text(words.input_ids, words.attention_mask)
        visual = model.compress(data.store.tokens)
        scores = model.alignment(states, word_positions(words.attention_mask), visual)
    return float((scores.argmax(1) == data.image_of_caption).float().mean())


def test_captions_find_their_images_before_any_step():
    start = checkpoint()
    data = collection(start)
    assert recall(start, data) < 0.3
    canonical_start(start, data)
    assert recall(start, data) > 0.6


def test_contrastive_training_of_the_means_goes_on_from_there_and_depends_on_its_seed_alone():
    starts = [checkpoint() for _ in range(4)]
    data = collection(starts[0])
    canonical_start(starts[0], data)
    for start, seed in zip(starts[1:], (7, 7, 8), strict=True):
        torch.manual_seed(seed + id(start))
        canonical_start(start, data, seed)
    closed, first, again, other = (start.model.adapter.project.weight for start in starts)
    assert torch.equal(first, again)
    assert not torch.allclose(first, closed) and not torch.allclose(first, other)
    assert recall(starts[1], data) >= recall(starts[0], data)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (lambda: checkpoint(evidence=False), "joint.evidence=true"),
        (
            lambda: checkpoint(
                AdapterSpecification(
                    "edje.models.adapters.GridPoolingAdapter",
                    {"num_tokens": 4, "hidden_width": 32},
                )
            ),
            "adapter=linear_pooling",
        ),
        (lambda: checkpoint(facts=FACTS), "channels"),
    ],
)
def test_what_it_needs_is_named(start, named):
    made = start()
    with pytest.raises(EdjeError, match=named):
        canonical_start(made, collection(checkpoint()))


@pytest.mark.parametrize("share", [None, 0.4])
def test_the_evidence_starts_with_the_share_of_the_mean_cosine_that_is_given(share):
    start = checkpoint()
    ContrastiveStart(mean_share=share).fit(start, collection(start), 0, torch.device("cpu"))
    shares = start.model.evidence.mixture.softmax(dim=0)
    own = START_MEAN_SHARE if share is None else share
    torch.testing.assert_close(shares, torch.tensor([own, 1 - own]))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_leaves_one_cosine_out_is_refused(share):
    with pytest.raises(EdjeError, match=r"mean_share=.*above 0 and below 1"):
        ContrastiveStart(mean_share=share)
