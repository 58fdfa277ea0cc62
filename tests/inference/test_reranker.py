"""The Reranker runs on the fast scorer and gives the scores of the training module."""

import pytest
import torch
from tiny import COMPRESSION, FACTS, tiny_captions, tiny_language_model

from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification, Checkpoint, build_reranker
from edje.inference.reranker import Reranker
from edje.language_model import tokenize


def reranker(
    residual: bool, precision: torch.dtype = torch.float32, adapter=COMPRESSION
) -> Reranker:
    torch.manual_seed(0)
    language_model = tiny_language_model()
    model = build_reranker(adapter, FACTS, language_model, residual).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    checkpoint = Checkpoint(model, language_model, FACTS, adapter, "", {}, "", {}, {})
    return Reranker(checkpoint, precision)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("residual", [False, True])
def test_scores_equal_the_training_modules_pair_by_pair(residual, direction):
    served, captions = reranker(residual), [*tiny_captions(5), *tiny_captions(3)]
    visual = torch.randn(8, int(served.model.adapter.num_tokens), served.model.joint.width)
    first = torch.linspace(-1, 1, 8)
    tokenizer = served.checkpoint.language_model.tokenizer
    text = tokenize(tokenizer, [clean_caption(caption) for caption in captions])
    with torch.no_grad():
        expected = served.model.score(text, visual, direction, first)
    found = served.score(captions, visual, first if residual else None, direction)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    (scorer,) = served._scorers.values()
    served.score(captions[:2], visual[:2], first[:2], direction)
    assert list(served._scorers.values()) == [scorer]  # weights are copied once, not per call


def test_no_captions_have_no_scores_and_half_precision_is_near():
    exact, half = reranker(False), reranker(False, torch.bfloat16)
    visual = torch.randn(4, int(exact.model.adapter.num_tokens), exact.model.joint.width)
    assert exact.score([], visual[:0]).shape == (0,)
    scores = exact.score(tiny_captions(4), visual)
    rounded = half.score(tiny_captions(4), visual)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, scores)
    torch.testing.assert_close(rounded, scores, rtol=0.05, atol=0.05)


def test_attention_maps_are_the_adapters_own():
    served = reranker(False)
    tokens = torch.randn(3, FACTS.num_tokens, FACTS.token_width)
    adapter = served.model.adapter
    maps = served.attention_maps(tokens.double())
    assert maps.shape == (3, FACTS.num_heads, adapter.num_tokens, FACTS.num_tokens)
    assert torch.equal(maps, adapter.attention_maps(tokens)) and not maps.requires_grad


def test_maps_are_refused_of_other_tokens_and_of_an_adapter_that_has_none():
    with pytest.raises(EdjeError, match=r"attention_maps: got tokens of shape \(2, 9, 5\)"):
        reranker(False).attention_maps(torch.randn(2, 9, 5))
    local = AdapterSpecification("edje.models.adapters.LocalAdapter", {"hidden_width": 8})
    tokens = torch.randn(2, FACTS.num_tokens, FACTS.token_width)
    with pytest.raises(EdjeError, match=r"LocalAdapter weighs no vision tokens.*adapter=compress"):
        reranker(False, adapter=local).attention_maps(tokens)
