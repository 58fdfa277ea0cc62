"""What is promised in float32 is computed in float32 under autocast, in training as when served."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from edje.inference.checkpoint import build_reranker
from edje.models.evidence import AlignmentEvidence
from edje.models.heads import late_interaction
from edje.objectives.alignment import Alignment
from edje.objectives.distillation import Distillation
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from edje.training.step import forward_step
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import FACTS, LOCAL, tiny_pairs, tiny_reranker


def half():
    return torch.autocast("cpu", dtype=torch.bfloat16)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near_pairs(count=16):
    """Pairs whose first-stage cosines lie within what bf16 can't tell apart."""
    centre, spread = drawn(1, 12), 0.05
    return replace(
        tiny_pairs(count),
        image_embeddings=F.normalize(centre + spread * drawn(count, 12, seed=1), dim=1),
        text_embeddings=F.normalize(centre + spread * drawn(count, 12, seed=2), dim=1),
    )


def trained(model, terms, teacher=None, **changes) -> RerankerModule:
    given = {"steps_per_epoch": 1, "checkpoint_fields": {}, "mask_id": 4} | changes
    return RerankerModule(
        model, terms, HardNegatives(count=3, pool=3), Optimisation(), teacher=teacher, **given
    )


def test_a_step_under_autocast_mines_the_true_hardest_and_trains_on_the_cosines_it_is_served(
    monkeypatch,
):
    torch.manual_seed(0)
    model, teacher = (tiny_reranker(LOCAL, residual=True) for _ in range(2))
    for one in (model, teacher):
        one.set_first_stage_statistics("t2i", 0.9, 0.01)
        one.set_first_stage_statistics("i2t", 0.8, 0.02)
    seen = {}
    for name, one in (("student", model), ("teacher", teacher)):
        forward = one.residual.forward
        monkeypatch.setattr(
            one.residual,
            "forward",
            lambda state, score, name=name, forward=forward: (
                seen.setdefault(name, []).append(score) or forward(state, score)
            ),
        )
    batch = near_pairs()
    cosines = batch.text_embeddings @ batch.image_embeddings.T
    module = trained(model, {"matching": Matching(), "distillation": Distillation()}, teacher)
    with half():
        outputs = module(batch, 0)
    wrong = cosines.masked_fill(torch.eye(16).bool(), -2)
    hardest = wrong.topk(3, dim=1).values, wrong.T.topk(3, dim=1).values
    own = cosines.diagonal()[:, None]
    right = [
        (torch.cat([own, values], dim=1) - mean) / deviation
        for values, (mean, deviation) in zip(hardest, ((0.9, 0.01), (0.8, 0.02)), strict=True)
    ]
    for scores in seen.values():
        for found, expected in zip(scores, right, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for logits in (outputs.pairs.t2i, outputs.teacher.t2i):
        assert logits.dtype == torch.float32
    assert len(seen) == 2


def test_late_interaction_under_autocast_is_the_same_to_the_bit():
    given = drawn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool), drawn(4, 6, 8, seed=1)
    expected = late_interaction(*given)
    with half():
        assert torch.equal(late_interaction(*given), expected)
    assert late_interaction(given[0].bfloat16(), given[1], given[2].bfloat16()).dtype == (
        torch.float32
    )


def test_evidence_under_autocast_is_the_same_to_the_bit():
    torch.manual_seed(0)
    evidence = AlignmentEvidence(8, 8).eval()
    states, present, visual = drawn(3, 5, 8), torch.ones(3, 5).bool(), drawn(4, 6, 8, seed=1)
    rows, images = torch.tensor([2, 0, 1]), torch.tensor([3, 3, 0])

    def found():
        words = evidence.words(states, present)
        return words.states, evidence(words, visual), evidence.logits(words, rows, visual[images])

    expected = found()
    with half():
        for value, right in zip(found(), expected, strict=True):
            assert torch.equal(value, right)
        of_half = evidence.words(states.bfloat16(), present)
        assert evidence.logits(of_half, rows, visual[images].bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("evidence", [False, True])
def test_a_step_s_alignment_is_in_float32_of_what_the_layers_gave(evidence):
    """Layers run in bf16; the cosines of what they gave are not rounded once more."""
    torch.manual_seed(0)
    language_model = tiny_language_model(fusion_layer=1, evidence=evidence)
    model = build_reranker(LOCAL, FACTS, language_model, False).eval()
    batch = tiny_pairs(8)
    with half(), torch.no_grad():
        found = forward_step(model, batch, None, Alignment.needs, None, 4, None).alignment.t2i
        visual = model.compress(batch.tokens)
        states = model.joint.read_text(batch.text.input_ids, batch.text.attention_mask)
        if not evidence:
            visual = model.joint.entering(visual)
    assert found.dtype == torch.float32 and found.abs().max() <= 1 + 1e-6
    mask = batch.text.attention_mask
    for caption, image in ((0, 0), (3, 5)):
        words = states[caption, 1 : int(mask[caption].sum()) - 1].float()
        tokens = visual[image].float()
        if evidence:
            words = model.evidence.text(model.evidence.standardise(words[None]))[0]
        late = F.cosine_similarity(words[:, None], tokens, dim=-1).amax(1).mean()
        if evidence:
            shares = model.evidence.mixture.softmax(0)
            overall = F.cosine_similarity(words.sum(0), tokens.mean(0), dim=0)
            late = shares[0] * overall + shares[1] * late
        torch.testing.assert_close(found[caption, image], late, rtol=0, atol=1e-5)
