"""A frozen sentence encoder: the mean of a language model's token states, normalised."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edje.backbones.pretrained import (
    configuration_facts,
    freeze,
    load_tokenizer,
    load_weights,
    tokenizer_digest,
    weights_digest,
)
from edje.backbones.protocol import Identity


class SentenceEncoder(nn.Module):
    """Captions to L2-normalised mean-pooled states, as Sentence-BERT models are trained.

    Args:
        pretrained: a folder written by `save_pretrained`, or a hub name such as
            `sentence-transformers/all-MiniLM-L6-v2`.
        max_length: word pieces after which a caption is cut, special ones included.

    Raises:
        EdjeError: nothing to load under that name, weights are missing, or no tokenizer there.
    """

    def __init__(self, *, pretrained: str, max_length: int = 128):
        super().__init__()
        self.pretrained = pretrained
        self.model: Any
        self.model, poolers = load_weights(pretrained)
        if poolers:  # drawn at random and never used, but they would be in the digest
            self.model.pooler = None
        freeze(self.model)
        self.tokenizer = load_tokenizer(pretrained)
        self.max_length = min(max_length, self.model.config.max_position_embeddings)
        self._cut = min(self.max_length, self._positions())
        self.text_width: int = self.model.config.hidden_size

    def train(self, mode: bool = True) -> "SentenceEncoder":
        """Stays in evaluation mode: the encoder is frozen."""
        return super().train(False)

    def text_identity(self) -> Identity:
        """What makes stored caption features comparable."""
        return {
            "text_encoder": type(self).__name__,
            "model": self.model.config.model_type,
            "weights": self._digest,
            "vocabulary": self.model.config.vocab_size,
            "max_length": self.max_length,
            "configuration": configuration_facts(self.model.config, "pad_token_id"),
            "tokenizer": self._tokenizer_digest,
        }

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "batch text_features"]:
        """L2-normalised means of the token states, pads left out."""
        batch = self.tokenizer(
            list(texts),
            padding="longest",
            truncation=True,
            max_length=self._cut,
            return_tensors="pt",
        ).to(self.model.device)
        states = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        # A mean and a sum differ by a factor, which the normalisation removes.
        return nn.functional.normalize((states * mask).sum(1), dim=-1)

    def _positions(self) -> int:
        """Word pieces that the position table has rows for; RoBERTa's begins with the pad's."""
        table = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        rows: int = self.model.config.max_position_embeddings
        return rows if padding is None else rows - padding - 1

    @functools.cached_property
    def _tokenizer_digest(self) -> str:
        return tokenizer_digest(self.tokenizer)

    @functools.cached_property
    def _digest(self) -> str:
        return weights_digest(self.model)
