"""What alignment adds to the match logit: the cosines, their mixture, and where they count."""

from dataclasses import fields, replace

import pytest
import torch
from torch.nn import functional as F

from edje.errors import EdjeError
from edje.inference.checkpoint import build_reranker
from edje.language_model import (
    LanguageModel,
    language_model_from_specification,
    new_language_model,
    pretrained_language_model,
    tokenize,
)
from edje.models.evidence import AlignmentEvidence
from edje.models.joint_options import JointOptions
from edje.models.standardise import Standardise
from edje.objectives.alignment import Alignment
from edje.training.step import forward_step
from tests.tiny.encoders import tiny_language_model
from tests.tiny.rerankers import COMPRESSION, FACTS, tiny_pairs
from tests.tiny.words import tiny_captions, tiny_tokenizer


def language_model(**options) -> LanguageModel:
    return tiny_language_model(fusion_layer=1, **options)


def reranker(**options):
    torch.manual_seed(0)
    return build_reranker(
        COMPRESSION, FACTS, language_model(evidence=True, **options), False
    ).eval()


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_evidence_of_a_pair_word_by_word():
    torch.manual_seed(0)
    evidence = AlignmentEvidence(8, 8).eval()
    evidence.standardise.set_moments(drawn(50, 8, seed=3) * 2 + 1)
    evidence.mixture.data = torch.tensor([0.3, -0.5])
    states, visual = drawn(2, 5, 8), drawn(3, 4, 8, seed=2)
    present = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
    found = evidence(evidence.words(states, present), visual)
    late_share = 1 / (1 + torch.tensor(0.8).exp())
    for caption in range(2):
        words = [
            evidence.text(
                (states[caption, place] - evidence.standardise.mean) / evidence.standardise.scale
            )
            for place in range(5)
            if present[caption, place]
        ]
        for image in range(3):
            nearest = [
                max(F.cosine_similarity(word, token, dim=0) for token in visual[image])
                for word in words
            ]
            late = sum(nearest) / len(nearest)
            overall = F.cosine_similarity(sum(words), visual[image].mean(0), dim=0)
            expected = (1 - late_share) * overall + late_share * late
            torch.testing.assert_close(found[caption, image], expected)


def test_a_pairs_logit_is_its_cosine_times_the_scale():
    evidence = AlignmentEvidence(8, 8).eval()
    words = evidence.words(drawn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool))
    visual = drawn(4, 6, 8, seed=2)
    rows, images = torch.tensor([2, 0, 1]), torch.tensor([3, 3, 0])
    with torch.no_grad():
        logits = evidence.logits(words, rows, visual[images])
        torch.testing.assert_close(logits, 20 * evidence(words, visual)[rows, images])


def test_evidence_is_the_same_under_autocast():
    torch.manual_seed(0)
    evidence = AlignmentEvidence(8, 8).eval()
    states, visual = drawn(3, 5, 8), drawn(3, 4, 8, seed=2)

    def computed():
        words = evidence.words(states, torch.ones(3, 5, dtype=torch.bool))
        return evidence(words, visual), evidence.logits(words, torch.arange(3), visual)

    expected = computed()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = computed()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_the_mixture_holds_the_share_of_the_mean_cosine_and_the_rest():
    evidence = AlignmentEvidence(8, 8)
    torch.testing.assert_close(evidence.mixture.softmax(0).data, torch.tensor([0.75, 0.25]))
    evidence.set_mean_share(0.4)
    torch.testing.assert_close(evidence.mixture.softmax(0).data, torch.tensor([0.4, 0.6]))


def test_an_untrained_match_head_leaves_the_score_to_the_evidence_and_padding_changes_nothing():
    model = reranker()
    words = tokenize(tiny_tokenizer(), tiny_captions(4))
    longer = tokenize(tiny_tokenizer(), [*tiny_captions(4), "red " * 20])
    visual = model.compress(tiny_pairs(4).tokens)
    with torch.no_grad():
        scores = model.score(words, visual, "t2i")
        padded = longer.input_ids[:4], longer.attention_mask[:4]
        states = model.joint.read_text(words.input_ids, words.attention_mask)
        rows = torch.arange(4)
        evidence = model.pair_evidence(states, words.attention_mask, rows, visual)
        torch.testing.assert_close(scores, evidence)
        torch.testing.assert_close(model.score(type(words)(*padded), visual, "t2i"), scores)
    assert scores.std() > 0.01


def test_frozen_text_gets_no_gradient_and_the_evidence_and_adapter_do():
    model = reranker(frozen_text=True).train()
    batch = tiny_pairs()
    outputs = forward_step(model, batch, None, frozenset({"alignment"}), None, 4, None)
    Alignment()(outputs).backward()
    assert model.evidence.text.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.adapter.parameters())
    lower = model.joint.language_model.encoder.layer[0]
    frozen = [*lower.parameters(), *model.joint.language_model.embeddings.parameters()]
    assert all(not parameter.requires_grad for parameter in frozen)
    assert all(p.requires_grad for p in model.joint.language_model.encoder.layer[1].parameters())


def test_the_options_travel_with_a_checkpoint_and_older_ones_have_none():
    specification = language_model(
        frozen_text=True, evidence=True, evidence_layers=(0,), evidence_dropout=0.25
    ).specification()
    again = language_model_from_specification(specification)
    assert again.options == JointOptions(1, True, True, (0,), 0.25)
    for name in ("frozen_text", "evidence", "evidence_layers", "evidence_dropout"):
        del specification[name]
    assert language_model_from_specification(specification).options == JointOptions(1)


def test_every_option_of_the_configuration_reaches_the_record(tmp_path):
    """Given by name, each as no other is."""
    given = {
        "fusion_layer": 2,
        "frozen_text": True,
        "evidence": True,
        "evidence_layers": [0, 1],
        "evidence_dropout": 0.25,
    }
    expected = JointOptions(**given | {"evidence_layers": (0, 1)})
    assert set(given) == {field.name for field in fields(JointOptions)}
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_language_model().encoder.save_pretrained(tmp_path)
    made = pretrained_language_model(pretrained=str(tmp_path), **given)
    assert made.options == expected
    del given["frozen_text"]  # fresh layers are trained
    fresh = new_language_model(tokenizer=str(tmp_path), **given)
    assert fresh.options == replace(expected, frozen_text=False)


def test_the_evidence_reads_the_words_of_earlier_layers_beside_those_of_the_fusion_layer():
    model = reranker(evidence_layers=(0,))
    words = tokenize(tiny_tokenizer(), tiny_captions(5))
    visual = drawn(5, 4, 32)
    with torch.no_grad():
        read = model.joint.read_text(words.input_ids, words.attention_mask)
        layers = model.joint.language_model(
            words.input_ids, words.attention_mask.long(), output_hidden_states=True
        ).hidden_states
        expected = torch.cat([layers[1], layers[0]], dim=2)
        present = words.attention_mask
        torch.testing.assert_close(read[present], expected[present])
        assert model.evidence.text.in_features == 64
        # The joint layers read what they did before; only the evidence knows more.
        alone = reranker()
        alone.joint.load_state_dict(model.joint.state_dict())
        torch.testing.assert_close(
            model.joint.fuse(read, present, visual)[present.any(1)],
            alone.joint.fuse(read[..., :32], present, visual),
        )


@pytest.mark.parametrize(
    ("layers", "options", "named"),
    [
        ((1,), {"evidence": True}, "below joint.fusion_layer=1"),
        ((0, 0), {"evidence": True}, "ascending"),
        ((0,), {}, "Set joint.evidence=true"),
    ],
)
def test_layers_that_are_not_read_are_refused(layers, options, named):
    with pytest.raises(EdjeError, match=named):
        language_model(evidence_layers=layers, **options)


@pytest.mark.parametrize("option", ["evidence", "frozen_text"])
def test_both_need_a_text_that_is_read_alone(option):
    with pytest.raises(EdjeError, match=r"joint\.fusion_layer to 1"):
        JointOptions(**{option: True})


def test_dropout_hides_a_channel_of_a_sample_everywhere_or_nowhere():
    layer = Standardise(64, dropout=0.5).train()
    torch.manual_seed(0)
    features = layer(torch.ones(20, 7, 64))
    zero = features == 0
    assert torch.equal(zero.all(dim=1), zero.any(dim=1))
    assert 0.4 < zero.float().mean() < 0.6
    assert features[~zero].unique().tolist() == [2.0]
    assert torch.equal(layer.eval()(torch.ones(2, 7, 64)), torch.ones(2, 7, 64))
    with pytest.raises(ValueError, match="below 1"):
        Standardise(4, dropout=1.0)


def test_a_channel_is_divided_by_its_deviation_and_a_constant_one_only_centred():
    layer = Standardise(2)
    layer.set_moments(torch.tensor([[1.0, 5.0], [5.0, 5.0]]))
    expected = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(layer(torch.tensor([[[5.0, 5.0], [3.0, 7.0]]])), expected)
