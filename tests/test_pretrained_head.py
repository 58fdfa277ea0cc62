"""Claims about a language model's own masked-language head: ours gives transformers' logits."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    DistilBertForMaskedLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaForMaskedLM,
)

from edje.inference.checkpoint import (
    build_reranker,
    load_checkpoint,
    save_checkpoint,
)
from edje.language_model import LanguageModel, pretrained_language_model
from tests.tiny.encoders import encoder_config
from tests.tiny.rerankers import COMPRESSION, FACTS, checkpoint_of
from tests.tiny.words import tiny_tokenizer

WORDS = tiny_tokenizer()


def bert(kind: type[PreTrainedModel] = BertForMaskedLM, **changes) -> PreTrainedModel:
    return kind(encoder_config(**changes))


def roberta() -> PreTrainedModel:
    return RobertaForMaskedLM(encoder_config("roberta", layer_norm_eps=1e-3, pad_token_id=1))


def modernbert() -> PreTrainedModel:
    return ModernBertForMaskedLM(encoder_config("modernbert", norm_eps=1e-3))


def distilbert() -> PreTrainedModel:
    return DistilBertForMaskedLM(encoder_config("distilbert"))


MODELS = {
    "bert": bert,
    "bert_for_pretraining": lambda: bert(BertForPreTraining),
    "roberta": roberta,
    "modernbert": modernbert,
    "distilbert": distilbert,
}


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The model with weights that no fresh one has, and the tokenizer."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draws), alpha=0.3)
    model.save_pretrained(folder)
    WORDS.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(MODELS[request.param](), tmp_path_factory.mktemp(request.param))


def captions() -> torch.Tensor:
    return torch.tensor([[2, 6, 4, 7, 9, 3], [2, 4, 4, 11, 8, 3]])


def logits(model, input_ids: torch.Tensor) -> torch.Tensor:
    """Masked-language logits of ours at every position, of text only."""
    states = model.joint.encode_text(input_ids, torch.ones_like(input_ids, dtype=torch.bool))
    flat = model.masked_language(states.flatten(0, 1), model.joint.word_embeddings.weight)
    return flat.unflatten(0, input_ids.shape)


def reranker(language_model: LanguageModel):
    return build_reranker(COMPRESSION, FACTS, language_model, False).eval()


@torch.no_grad()
def test_logits_of_text_only_are_those_of_transformers(folder):
    expected = AutoModelForMaskedLM.from_pretrained(folder).eval()(captions()).logits
    found = logits(reranker(pretrained_language_model(pretrained=str(folder))), captions())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


@torch.no_grad()
def test_the_head_comes_back_from_a_checkpoint_as_it_was_trained(folder, tmp_path):
    language_model = pretrained_language_model(pretrained=str(folder))
    model = reranker(language_model)
    model.masked_language.bias.add_(1.0)  # as training would
    expected = logits(model, captions())
    save_checkpoint(checkpoint_of(model, language_model), tmp_path / "model.ckpt")
    again = load_checkpoint(tmp_path / "model.ckpt").model
    torch.testing.assert_close(logits(again, captions()), expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_checkpoint_of_before_keeps_its_head(tmp_path):
    """Its specification says nothing of one: epsilon and weights are those it was written with."""
    language_model = pretrained_language_model(pretrained=str(saved(roberta(), tmp_path / "lm")))
    model = build_reranker(COMPRESSION, FACTS, without_head(language_model), False).eval()
    expected = logits(model, captions())
    save_checkpoint(checkpoint_of(model, without_head(language_model)), tmp_path / "model.ckpt")
    content = torch.load(tmp_path / "model.ckpt", weights_only=True)
    del content["edje"]["language_model"]["head_norm_eps"]
    torch.save(content, tmp_path / "model.ckpt")
    again = load_checkpoint(tmp_path / "model.ckpt").model
    assert torch.equal(logits(again, captions()), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: bert(BertModel),
        lambda: bert(hidden_act="relu"),
        lambda: bert(tie_word_embeddings=False),
    ],
    ids=["none", "another activation", "a decoder of its own"],
)
def test_without_a_head_to_take_over_it_starts_fresh_and_says_so_once(make, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="edje"):
        language_model = pretrained_language_model(pretrained=str(saved(make(), tmp_path)))
    lines = [line for line in caplog.messages if "head starts fresh" in line]
    assert len(lines) == 1 and str(tmp_path) in lines[0]
    assert language_model.head is None
    head = reranker(language_model).masked_language
    assert not head.bias.any() and torch.equal(head.norm.weight, torch.ones(32))


@torch.no_grad()
def test_an_encoder_cut_to_fewer_layers_keeps_the_head(tmp_path):
    model = bert()
    language_model = pretrained_language_model(pretrained=str(saved(model, tmp_path)), num_layers=1)
    dense = reranker(language_model).masked_language.dense.weight
    assert torch.equal(dense, model.cls.predictions.transform.dense.weight)


def test_the_encoder_is_the_one_without_a_head(folder):
    """Taking the head over adds no weight, and changes none, of the joint encoder's."""
    encoder = pretrained_language_model(pretrained=str(folder)).encoder
    whole = AutoModelForMaskedLM.from_pretrained(folder).base_model.state_dict()
    assert encoder.state_dict().keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in encoder.state_dict().items())


def without_head(language_model: LanguageModel) -> LanguageModel:
    return LanguageModel(language_model.encoder, language_model.tokenizer)
