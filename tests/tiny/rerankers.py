"""Tiny rerankers of random weights, their checkpoints, and pairs that they read."""

from typing import Any

import torch
from torch.nn import functional as F

from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
)
from edje.language_model import LanguageModel, tokenize
from edje.models.adapters import BackboneFacts
from edje.models.edje import EDJE
from edje.records import PairBatch
from tests.tiny.encoders import tiny_language_model
from tests.tiny.words import tiny_captions, tiny_tokenizer

FACTS = BackboneFacts(
    num_tokens=9, token_width=16, num_heads=2, layer_norm_eps=1e-6, embedding_width=12
)
COMPRESSION = AdapterSpecification(
    "edje.models.adapters.TokenCompressionAdapter", {"num_tokens": 4, "hidden_width": 32}
)
LOCAL = AdapterSpecification("edje.models.adapters.LocalAdapter", {"hidden_width": 32})


def tiny_reranker(
    adapter: AdapterSpecification = COMPRESSION, residual: bool = False, fusion_layer: int = 0
) -> EDJE:
    language_model = tiny_language_model(fusion_layer=fusion_layer)
    return build_reranker(adapter, FACTS, language_model, residual).eval()


def tiny_checkpoint(
    adapter: AdapterSpecification = COMPRESSION, residual: bool = False
) -> Checkpoint:
    language_model = tiny_language_model()
    model = build_reranker(adapter, FACTS, language_model, residual).eval()
    return checkpoint_of(model, language_model, adapter=adapter)


def checkpoint_of(model: EDJE, language_model: LanguageModel, **fields: Any) -> Checkpoint:
    """A model and its language model as a run saves them; fields differ from a tiny reranker's."""
    usual = {
        "facts": FACTS,
        "adapter": COMPRESSION,
        "config": "name: tiny\n",
        "backbone": {"name": "tiny"},
        "label": "trained on nothing",
        "first_stage": {},
        "fusion": {},
    }
    return Checkpoint(model=model, language_model=language_model, **usual | fields)


def tiny_pairs(count: int = 8) -> PairBatch:
    generator = torch.Generator().manual_seed(2)
    return PairBatch(
        sample_ids=torch.arange(count),
        image_ids=torch.arange(count),
        caption_keys=torch.arange(count),
        tokens=torch.randn(count, FACTS.num_tokens, FACTS.token_width, generator=generator),
        text=tokenize(tiny_tokenizer(), tiny_captions(count)),
        image_embeddings=F.normalize(torch.randn(count, 12, generator=generator), dim=1),
        text_embeddings=F.normalize(torch.randn(count, 12, generator=generator), dim=1),
    )
