"""The scorer in int8: near to the exact one, blind to neighbours, refused where it can't be."""

import itertools
from functools import partial

import pytest
import torch

from edje.errors import EdjeError
from edje.inference import int8_encoder as int8
from edje.inference.cpu import Int8Dense, has_int8_products
from edje.inference.scorer import StoredTokenScorer
from edje.pipeline.shares import ScoringWork, score, settled
from tests.tiny.scoring import all_pairs, collection, reranker_of

pytestmark = pytest.mark.skipif(not has_int8_products(), reason="no exact products in int8 here")


@pytest.mark.parametrize("fusion_layer", [0, 1])
def test_scores_in_int8_rank_nearly_as_the_exact_ones(fusion_layer):
    """The tiny model is drawn at random and mixes its inputs far more than a trained one."""
    model, stored = reranker_of("bert", fusion_layer), collection(20, 30)
    queries, candidates = all_pairs("t2i", stored)
    first = torch.zeros(len(queries))
    exact = StoredTokenScorer(model, stored)("t2i", queries, candidates, first)
    rough = StoredTokenScorer(model, stored, torch.int8, as_given=True)(
        "t2i", queries, candidates, first
    )
    assert rough.dtype == torch.float32
    assert 0 < ((rough - exact) / exact.std()).square().mean().sqrt() < 0.15
    assert torch.corrcoef(torch.stack([rough, exact]))[0, 1] > 0.98


def moved(scores: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
    """Of two scorings, the root mean squared difference in deviations of the first."""
    return ((again - scores) / scores.std()).square().mean().sqrt()


def test_all_products_over_all_rows_are_in_int8_and_blind_to_their_neighbours():
    """The batch's size may choose oneDNN's kernel, so that a code is rounded to the next one.

    Seen alone and together: a difference of 0.0000005 of a deviation with AVX-512 and 0.015 with
    AVX2 for oneDNN. Scales that follow the batch would move scores as those of others do: by 0.25.
    """
    model, stored = reranker_of("bert"), collection()
    scorer = StoredTokenScorer(model, stored, torch.int8, batch_size=5, as_given=True)
    for layer in scorer.encoder.layers:
        parts = (layer.query_key_value, layer.mix, layer.expand, layer.contract)
        assert all(isinstance(part, Int8Dense) for part in parts)
        assert layer.expand.output[2] == torch.uint8  # the feed-forward stays in int8
    assert isinstance(scorer.encoder.last.key_value, Int8Dense)
    queries, candidates = all_pairs("t2i", stored)
    first = torch.zeros(len(queries))
    together = scorer("t2i", queries, candidates, first)
    parts = zip(queries.split(7), candidates.split(7), first.split(7), strict=True)
    alone = torch.cat([scorer("t2i", *few) for few in parts])
    other = StoredTokenScorer(model, collection(3, 4), torch.int8, batch_size=5, as_given=True).on(
        stored
    )
    assert moved(together, alone) < 0.05 < moved(together, other("t2i", queries, candidates, first))


def test_int8_is_refused_where_it_can_not_be(monkeypatch):
    with pytest.raises(EdjeError, match=r"only supports BERT and similar .*not ModernBertModel"):
        StoredTokenScorer(reranker_of("modernbert"), collection(), torch.int8)
    monkeypatch.setattr(int8, "has_int8_products", lambda: False)
    with pytest.raises(EdjeError, match=r"need a CPU that computes them exactly .* Use bf16"):
        StoredTokenScorer(reranker_of(), collection(), torch.int8)


class Clock:
    """Tells that the first of two calls takes `first` seconds, the other one second."""

    def __init__(self, first: float):
        self.steps = itertools.cycle([0.0, first, 0.0, 1.0])
        self.now = 0.0

    def __call__(self) -> float:
        self.now += next(self.steps)
        return self.now


@pytest.mark.parametrize(
    ("here", "seconds", "precision", "line"),
    [
        (True, 0.9, torch.int8, "pairs took 900.00 ms in int8, 1000.00 in bf16 (one thread)"),
        (True, 0.97, torch.bfloat16, "970.00 ms in int8, 1000.00 in bf16 (one thread): using bf16"),
        (True, 1.2, torch.bfloat16, "1200.00 ms in int8, 1000.00 in bf16 (one thread): using bf16"),
        (False, 0.97, torch.float32, "970.00 ms in int8, 1000.00 in fp32 (one thread): using fp32"),
    ],
)
def test_int8_is_used_where_its_layer_is_measured_faster(
    here, seconds, precision, line, monkeypatch, caplog
):
    """By a clock that says how long a layer takes; the scores are those of what is used."""
    monkeypatch.setattr("edje.inference.precisions.has_bf16", lambda device: here)
    timed = partial(int8.is_worth_it, clock=Clock(seconds))
    monkeypatch.setattr("edje.inference.scorer.is_worth_it", timed)
    model, stored = reranker_of("bert"), collection()
    pairs = all_pairs("t2i", stored)
    first = torch.zeros(len(pairs[0]))
    with caplog.at_level("INFO"):
        scorer = StoredTokenScorer(model, stored, torch.int8, batch_size=7)
    assert scorer.precision == precision and line in caplog.text
    expected = StoredTokenScorer(model, stored, precision, batch_size=7, as_given=True)
    assert torch.equal(scorer("t2i", *pairs, first), expected("t2i", *pairs, first))


def test_an_evaluation_measures_int8_once_and_says_what_it_used(monkeypatch):
    """What several processes are given is decided; they don't decide anew."""
    asked = []
    monkeypatch.setattr("edje.inference.precisions.has_bf16", lambda device: True)
    monkeypatch.setattr("edje.inference.scorer.is_worth_it", lambda *_: asked.append(1) or False)
    work = settled(ScoringWork(reranker_of("bert"), collection(), torch.int8, 8, []))
    assert work.precision == torch.bfloat16 and asked == [1]
    assert settled(work) == work and score(work, lambda _: None)[0] == [] and asked == [1]
    monkeypatch.setattr("edje.inference.scorer.is_worth_it", lambda *_: asked.append(1) or True)
    work = settled(ScoringWork(reranker_of("bert"), collection(), torch.int8, 8, []))
    assert score(work, lambda _: None)[0] == [] and work.precision == torch.int8
    assert asked == [1, 1]
