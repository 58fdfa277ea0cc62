"""Gradient checkpointing keeps less and changes nothing."""

import io
from dataclasses import replace
from pickle import PicklingError

import pytest
import torch
from transformers import PreTrainedModel

from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification, build_reranker
from edje.language_model import LanguageModel
from edje.models.joint_options import JointOptions
from edje.objectives.alignment import Alignment
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.text_recovery import TextRecovery
from edje.training import gradient_checkpointing
from edje.training.gradient_checkpointing import checkpoint_layers, keep_all
from edje.training.optimisation import Optimisation, seed_step
from edje.training.reranker_module import RerankerModule
from tests.tiny.encoders import tiny_encoder
from tests.tiny.rerankers import COMPRESSION, FACTS, LOCAL, tiny_pairs
from tests.tiny.words import tiny_tokenizer

ADAPTERS = {
    "local": LOCAL,
    "compression": COMPRESSION,
    "nested": replace(COMPRESSION, choices={**COMPRESSION.choices, "budgets": [1, 3]}),
} | {
    name: AdapterSpecification(f"edje.models.adapters.{name}", {"num_tokens": 4, **choices})
    for name, choices in {
        "QueryTransformerAdapter": {"hidden_width": 32},
        "GridPoolingAdapter": {"hidden_width": 32},
        "LinearPoolingAdapter": {"dropout": 0.3},
        "SubsamplingAdapter": {"hidden_width": 32},
        "KMeansAdapter": {"hidden_width": 32},
        "AttentionPruningAdapter": {"hidden_width": 32},
    }.items()
}


def bert() -> PreTrainedModel:
    """With dropout, which both passes must draw alike."""
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    return tiny_encoder(attn_implementation="sdpa", **dropout)


def modern_bert() -> PreTrainedModel:
    dropout = {"attention_dropout": 0.3, "mlp_dropout": 0.3}
    return tiny_encoder("modernbert", attn_implementation="eager", **dropout)


def trained(adapter, language_model, recomputed, half=False):
    """Loss, gradients by name and the bytes kept between the passes of one step."""
    torch.manual_seed(0)
    encoder, options = language_model
    model = build_reranker(
        adapter,
        FACTS,
        LanguageModel(encoder(), tiny_tokenizer(), JointOptions(**options)),
        residual=True,
    )
    if recomputed:
        checkpoint_layers(model)
    terms = (Matching(), MaskedLanguage(), TextRecovery(), Alignment())
    module = RerankerModule(
        model,
        {type(term).__name__: term for term in terms},
        HardNegatives(count=2, pool=4),
        Optimisation(),
        mask_id=4,
        steps_per_epoch=1,
        checkpoint_fields={},
    )
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seed_step(0, 0, 0)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        outputs = module(tiny_pairs(8), 3)
        loss = torch.stack([term(outputs) for term in terms]).sum()
    torch.rand(7)  # whatever else moves the generator between the passes
    loss.backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return loss.detach(), found, sum(kept.values())


def assert_equal_and_less(plain, recomputed):
    loss, gradients, kept = plain
    again, others, kept_then = recomputed
    assert torch.equal(again, loss) and gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-6, msg=name)
    assert kept_then < kept


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_trains_alike_and_less_is_kept(adapter, half):
    given = ADAPTERS[adapter], (bert, {"fusion_layer": 1})
    assert_equal_and_less(trained(*given, False, half), trained(*given, True, half))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("language_model", "options"),
    [
        (bert, {}),
        (bert, {"fusion_layer": 1, "evidence": True, "frozen_text": True}),
        (modern_bert, {}),
    ],
)
def test_every_joint_encoder_trains_alike_and_less_is_kept(language_model, options, half):
    given = LOCAL, (language_model, options)
    assert_equal_and_less(trained(*given, False, half), trained(*given, True, half))


def test_nothing_is_recomputed_where_nothing_is_trained(reranker, pairs, monkeypatch):
    expected = reranker.compress(pairs.tokens)
    checkpoint_layers(reranker)
    monkeypatch.setattr(gradient_checkpointing, "checkpoint", None)  # calling it would fail
    with torch.no_grad():
        assert torch.equal(reranker.train().compress(pairs.tokens), expected)
        reranker.score(pairs.text, expected, "t2i")


def test_a_model_that_keeps_all_again_can_be_sent_to_other_processes(reranker, pairs):
    expected = reranker.compress(pairs.tokens)
    checkpoint_layers(reranker)
    with pytest.raises((AttributeError, PicklingError), match="local object"):
        torch.save(reranker, io.BytesIO())
    keep_all(reranker)
    torch.save(reranker, sent := io.BytesIO())
    sent.seek(0)
    again = torch.load(sent, weights_only=False)
    assert torch.equal(again.compress(pairs.tokens), expected)


def test_names_of_weights_stay(reranker):
    names = list(reranker.state_dict())
    checkpoint_layers(reranker)
    assert list(reranker.state_dict()) == names


def test_a_language_model_without_a_list_of_layers_is_refused(reranker):
    reranker.joint.language_model.encoder = torch.nn.Identity()
    with pytest.raises(EdjeError, match=r"no list of layers found in BertModel\. Set grad"):
        checkpoint_layers(reranker)
