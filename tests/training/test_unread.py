"""Exactly the weights that some objective reads are trained."""

from itertools import chain, combinations
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from edje.errors import EdjeError
from edje.inference.checkpoint import build_reranker
from edje.language_model import LanguageModel, pretrained_language_model
from edje.objectives.alignment import Alignment
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.text_recovery import TextRecovery
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.tiny.encoders import SIZES, tiny_encoder
from tests.tiny.rerankers import FACTS, LOCAL, tiny_pairs, tiny_reranker
from tests.tiny.words import tiny_tokenizer

TERMS = {
    "matching": Matching(),
    "masked_language": MaskedLanguage(),
    "text_recovery": TextRecovery(),
    "alignment": Alignment(),
}
KEPT = {"luke": {"entity_vocab_size": 8}, "longformer": {"attention_window": 4}, "esm": {}}
CHOICES = list(chain.from_iterable(combinations(TERMS, count) for count in (1, 2, 4)))


def trained(model, names) -> RerankerModule:
    terms = {name: TERMS[name] for name in names}
    return RerankerModule(
        model, terms, HardNegatives(count=1, pool=1), Optimisation(), 4, 1, {}
    )  # fmt: skip


@pytest.mark.parametrize("names", CHOICES, ids="+".join)
@pytest.mark.parametrize("fusion_layer", [0, 1])
@pytest.mark.parametrize("residual", [False, True])
def test_what_is_trained_gets_a_gradient_and_nothing_else_could(names, fusion_layer, residual):
    torch.manual_seed(0)
    options = {"residual": residual, "fusion_layer": fusion_layer}
    module = trained(tiny_reranker(LOCAL, **options), names)
    chosen = {name for name, weight in module.named_parameters() if weight.requires_grad}
    for weight in module.parameters():
        weight.requires_grad_(True)
    outputs = module(tiny_pairs(8), 0)
    torch.stack([term(outputs) for term in module.objectives.values()]).sum().backward()
    reached = {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert chosen == reached


def test_a_pooler_that_nothing_reads_is_frozen():
    encoder = tiny_encoder(pooler=True)
    model = build_reranker(LOCAL, FACTS, LanguageModel(encoder, tiny_tokenizer()), False)
    trained(model, TERMS)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {f"joint.language_model.pooler.dense.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize("family", ["luke", "longformer", "esm"])
def test_what_a_language_model_keeps_for_other_uses_is_frozen(family, tmp_path):
    """Entities, global attention, a pooler and a head of contacts; several ranks would wait."""
    torch.manual_seed(0)
    made = AutoConfig.for_model(family, **SIZES, **KEPT[family])
    AutoModel.from_config(made).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    language_model = pretrained_language_model(pretrained=str(tmp_path), dropout=0.0)
    module = trained(build_reranker(LOCAL, FACTS, language_model, False), TERMS)
    outputs = module(tiny_pairs(8), 0)
    torch.stack([term(outputs) for term in module.objectives.values()]).sum().backward()
    weights = dict(module.named_parameters())
    chosen = {name for name, weight in weights.items() if weight.requires_grad}
    assert chosen == {name for name, weight in weights.items() if weight.grad is not None}
    assert chosen < weights.keys()
    module.on_load_checkpoint(of_optimiser(len(chosen)))
    with pytest.raises(
        EdjeError, match=f"had {len(weights)} weights, this one has {len(chosen)}: "
    ):
        module.on_load_checkpoint(of_optimiser(len(weights)))  # an earlier version trained all


def of_optimiser(count: int) -> dict[str, Any]:
    """A checkpoint of a training with so many weights."""
    return {"optimizer_states": [{"param_groups": [{"params": list(range(count))}]}]}
