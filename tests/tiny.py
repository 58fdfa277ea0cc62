"""Tiny random-weight pieces that the tests build on the spot."""

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
)
from edje.language_model import LanguageModel, tokenize
from edje.models.adapters import BackboneFacts
from edje.models.edje import EDJE
from edje.models.joint_options import JointOptions
from edje.records import PairBatch

WORDS = ["red", "green", "blue", "small", "large", "star", "circle", "square", "left", "right"]
FACTS = BackboneFacts(
    num_tokens=9, token_width=16, num_heads=2, layer_norm_eps=1e-6, embedding_width=12
)
COMPRESSION = AdapterSpecification(
    "edje.models.adapters.TokenCompressionAdapter", {"num_tokens": 4, "hidden_width": 32}
)
LOCAL = AdapterSpecification("edje.models.adapters.LocalAdapter", {"hidden_width": 32})


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_language_model(
    max_positions: int = 80, deviation: float = 0.02, **options: Any
) -> LanguageModel:
    """Weights are drawn with BERT's own deviation unless another is given; options: the joint's."""
    config = BertConfig(
        vocab_size=5 + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=max_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=deviation,
    )
    encoder = BertModel(config, add_pooling_layer=False)
    return LanguageModel(encoder, tiny_tokenizer(), JointOptions(**options))


def tiny_reranker(
    adapter: AdapterSpecification = COMPRESSION, residual: bool = False, fusion_layer: int = 0
) -> EDJE:
    language_model = tiny_language_model(fusion_layer=fusion_layer)
    return build_reranker(adapter, FACTS, language_model, residual).eval()


def tiny_checkpoint(
    adapter: AdapterSpecification = COMPRESSION, residual: bool = False
) -> Checkpoint:
    language_model = tiny_language_model()
    return Checkpoint(
        model=build_reranker(adapter, FACTS, language_model, residual).eval(),
        language_model=language_model,
        facts=FACTS,
        adapter=adapter,
        config="name: tiny\n",
        backbone={"name": "tiny"},
        label="trained on nothing",
        first_stage={},
        fusion={},
    )


def tiny_captions(count: int = 8) -> list[str]:
    """Different captions of different lengths."""
    generator = torch.Generator().manual_seed(1)
    captions: list[str] = []
    while len(captions) < count:
        length = int(torch.randint(2, 6, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        caption = " ".join(WORDS[pick] for pick in picks)
        if caption not in captions:
            captions.append(caption)
    return captions


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
