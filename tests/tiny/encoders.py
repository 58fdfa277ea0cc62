"""Tiny text encoders of random weights, of every family that reads captions here."""

from typing import Any, Literal

from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaPreLayerNormConfig,
)

from edje.language_model import LanguageModel
from edje.models.joint_options import JointOptions
from tests.tiny.words import CLS, PAD, SEP, SPECIAL, WORDS, tiny_tokenizer

Family = Literal[
    "bert", "roberta", "roberta_prelayernorm", "modernbert", "distilbert", "mpnet", "deberta"
]
SIZES = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "pad_token_id": PAD,
}
DISTANCES = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
ENDS = {"bos_token_id": CLS, "eos_token_id": SEP}
# What a family has besides, or calls by other names.
FAMILIES: dict[Family, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "bert": (BertConfig, {}),
    "roberta": (RobertaConfig, {"type_vocab_size": 1, **ENDS}),
    "roberta_prelayernorm": (RobertaPreLayerNormConfig, ENDS),
    "modernbert": (ModernBertConfig, {"cls_token_id": CLS, "sep_token_id": SEP, **ENDS}),
    "distilbert": (DistilBertConfig, {"hidden_dim": 64}),
    "mpnet": (MPNetConfig, ENDS),
    "deberta": (DebertaV2Config, DISTANCES),
}


def encoder_config(family: Family = "bert", **changes: Any) -> PretrainedConfig:
    """Two layers 32 wide that read the tiny tokenizer's words, changes apart."""
    config, own = FAMILIES[family]
    return config(**SIZES | own | changes)


def tiny_encoder(
    family: Family = "bert", *, pooler: bool = False, **changes: Any
) -> PreTrainedModel:
    """Such an encoder, its weights drawn by torch's seed; only BERT and RoBERTa have poolers."""
    choice = {"add_pooling_layer": pooler} if family in ("bert", "roberta") else {}
    return AutoModel.from_config(encoder_config(family, **changes), **choice)


def tiny_language_model(
    max_positions: int = 80, deviation: float = 0.02, **options: Any
) -> LanguageModel:
    """Without dropout. Weights have BERT's own deviation by default; options: the joint's."""
    encoder = tiny_encoder(
        max_position_embeddings=max_positions,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=deviation,
    )
    return LanguageModel(encoder, tiny_tokenizer(), JointOptions(**options))
