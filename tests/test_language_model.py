"""Claims about tokenising texts, and about which language models are accepted."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from edje import language_model
from edje.errors import EdjeError
from edje.inference.checkpoint import build_reranker
from edje.language_model import (
    LanguageModel,
    language_model_from_specification,
    new_language_model,
    pretrained_language_model,
    tokenize,
)
from tests.tiny.encoders import ENDS, SIZES, tiny_encoder
from tests.tiny.rerankers import COMPRESSION, FACTS, tiny_pairs
from tests.tiny.words import CLS, PAD, SEP, WORDS, tiny_captions, tiny_tokenizer


def saved(folder: Path, encoder: PreTrainedModel, tokenizer: Any = None) -> str:
    encoder.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_texts_in_parts_are_tokenised_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(WORDS[: 1 + row % 9]) for row in (8, 0, 1, 2, 0, 7, 3)]
    whole = tokenize(tiny_tokenizer(), texts, 8)
    assert whole.input_ids.shape == (7, 8)  # cut
    for size in (1, 2, 7, 100):
        monkeypatch.setattr(language_model, "_TOKENIZED_AT_ONCE", size)
        parts = tokenize(tiny_tokenizer(), texts, 8)
        assert torch.equal(parts.input_ids, whole.input_ids)
        assert torch.equal(parts.attention_mask, whole.attention_mask)
        assert parts.input_ids.dtype == whole.input_ids.dtype


def test_texts_are_handed_over_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, sizes = tiny_tokenizer(), []

    def watched(texts: list[str], **choices: object) -> object:
        sizes.append(len(texts))
        return type(tokenizer).__call__(tokenizer, texts, **choices)

    watched.pad_token_id = tokenizer.pad_token_id  # type: ignore[attr-defined]
    tokenize(watched, ["red"] * 25_000)  # type: ignore[arg-type]
    assert sizes == [10_000, 10_000, 5_000]


SIDES = {"padding_side": "left", "truncation_side": "left"}


def test_a_tokenizer_that_pads_and_cuts_on_the_left_does_so_on_the_right(tmp_path):
    words = tiny_tokenizer(**SIDES)
    words.backend_tokenizer.enable_padding(direction="left", pad_id=PAD, pad_token="[PAD]")
    words.backend_tokenizer.enable_truncation(9, direction="left")
    texts = ["red star", "red green blue small large star", "small"]
    expected = tokenize(tiny_tokenizer(), texts, 6)
    assert expected.input_ids[0].tolist() == [CLS, 5, 10, SEP, PAD, PAD]
    pretrained = pretrained_language_model(pretrained=saved(tmp_path, tiny_encoder(), words))
    fresh = new_language_model(tokenizer=str(tmp_path), width=32, num_heads=2, num_layers=1)
    read = LanguageModel(pretrained.encoder, words).specification()  # of a checkpoint of before
    assert json.loads(read["tokenizer"])["padding"]["direction"] == "Left"
    for made in (pretrained, fresh, language_model_from_specification(read)):
        found = tokenize(made.tokenizer, texts, 6)
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.attention_mask, expected.attention_mask)


@pytest.mark.parametrize("lacking", ["cls_token", "sep_token", "pad_token"])
def test_a_tokenizer_without_a_special_token_that_is_read_is_refused(lacking, tmp_path):
    words = tiny_tokenizer()
    setattr(words, lacking, None)
    folder = saved(tmp_path, tiny_encoder(), words)
    for make in (
        lambda: pretrained_language_model(pretrained=folder),
        lambda: new_language_model(tokenizer=folder),
    ):
        with pytest.raises(EdjeError, match=rf"its tokenizer has no {lacking}; the joint encoder"):
            make()


@pytest.mark.parametrize("template", ["$A [SEP]", "[CLS] $A", "$A [SEP] [CLS]"])
def test_a_tokenizer_that_does_not_put_a_text_between_its_tokens_is_refused(template, tmp_path):
    folder = saved(tmp_path, tiny_encoder(), tiny_tokenizer(template=template))
    with pytest.raises(EdjeError, match=r"of an empty text; the joint encoder reads \[CLS\] capt"):
        pretrained_language_model(pretrained=folder)


def test_a_tokenizer_without_a_mask_token_is_accepted(tmp_path):
    """Only the objectives that mask words need it."""
    words = tiny_tokenizer()
    words.mask_token = None
    made = pretrained_language_model(pretrained=saved(tmp_path, tiny_encoder(), words))
    assert made.tokenizer.mask_token is None


def decoder() -> PreTrainedModel:
    return AutoModel.from_config(AutoConfig.for_model("llama", **SIZES, **ENDS))


def of_two_widths() -> PreTrainedModel:
    return AutoModel.from_config(AutoConfig.for_model("electra", **SIZES, embedding_size=16))


def t5() -> PreTrainedModel:
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 1}
    return AutoModel.from_config(
        AutoConfig.for_model("t5", vocab_size=SIZES["vocab_size"], **sizes)
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (decoder, "LlamaModel can't be a joint encoder: the state of .* such as MiniLM, BERT,"),
        (of_two_widths, "ElectraModel can't be a joint encoder: word embeddings have 16 numbers"),
        (t5, "T5Model can't be a joint encoder: it can't run .* such as MiniLM, BERT,"),
    ],
)
def test_a_language_model_that_cannot_be_a_joint_encoder_is_refused_by_name(make, reason, tmp_path):
    with pytest.raises(EdjeError, match=rf"joint\.pretrained={tmp_path}: {reason}") as caught:
        pretrained_language_model(pretrained=saved(tmp_path, make()))
    assert (caught.value.__cause__ is None) == (make is decoder)


def test_one_without_sdpa_runs_with_eager_says_so_and_comes_back_with_it(tmp_path, caplog):
    folder = saved(tmp_path, tiny_encoder("mpnet"))
    with caplog.at_level(logging.INFO, "edje"):
        made = pretrained_language_model(pretrained=folder)
    assert "MPNetModel has no sdpa attention: it runs with eager" in caplog.messages
    specification = made.specification()
    assert specification["attention"] == "eager"
    assert language_model_from_specification(specification).encoder.config.model_type == "mpnet"
    model, pairs = build_reranker(COMPRESSION, FACTS, made, False).eval(), tiny_pairs(4)
    scores = model.score(
        tokenize(made.tokenizer, tiny_captions(4)), model.compress(pairs.tokens), "t2i"
    )
    assert scores.isfinite().all()


def test_one_with_sdpa_keeps_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "edje"):
        made = pretrained_language_model(pretrained=saved(tmp_path, tiny_encoder()))
    assert made.specification()["attention"] == "sdpa" and "eager" not in caplog.text


@pytest.mark.parametrize("family", ["bert", "modernbert", "distilbert", "deberta", "mpnet"])
def test_a_dropout_that_is_asked_for_reaches_every_layer(family, tmp_path):
    folder = saved(tmp_path, tiny_encoder(family))
    encoder = pretrained_language_model(pretrained=folder, dropout=0.25).encoder
    drops = [module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)]
    assert drops and set(drops) == {0.25}


def test_a_dropout_that_a_language_model_has_no_name_for_is_refused(tmp_path):
    folder = saved(tmp_path, t5())
    with pytest.raises(EdjeError, match=r"joint\.dropout=0\.1: .* 't5' .* joint\.dropout=null"):
        pretrained_language_model(pretrained=folder, dropout=0.1)
