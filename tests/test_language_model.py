"""Claims about tokenising many texts."""

import pytest
import torch

from edje import language_model
from edje.language_model import tokenize
from tests.tiny.words import WORDS, tiny_tokenizer


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
