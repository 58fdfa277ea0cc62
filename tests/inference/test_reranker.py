"""The Reranker runs on the fast scorer and gives the scores of the training module."""

import pytest
import torch
from tiny import COMPRESSION, FACTS, tiny_captions, tiny_language_model

from edje.captions import clean_caption
from edje.inference.checkpoint import Checkpoint, build_reranker
from edje.inference.reranker import Reranker
from edje.language_model import tokenize


def reranker(residual: bool, precision: torch.dtype = torch.float32) -> Reranker:
    torch.manual_seed(0)
    language_model = tiny_language_model()
    model = build_reranker(COMPRESSION, FACTS, language_model, residual).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    checkpoint = Checkpoint(model, language_model, FACTS, COMPRESSION, "", {}, "", {}, {})
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
