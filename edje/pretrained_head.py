"""The masked-language head that a language model was trained with, under our head's names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PretrainedConfig

_ROBERTA = ("lm_head.dense", "lm_head.layer_norm", "lm_head")
_PARTS = {  # by model type: transformers' names of dense and norm, and of the decoder bias's owner
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions",
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "modernbert": ("head.dense", "head.norm", "decoder"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
}
_ACTIVATIONS = ("hidden_act", "classifier_activation", "activation")  # BERT, ModernBERT, DistilBERT


@dataclass(frozen=True)
class PretrainedHead:
    """What a `MaskedLanguageHead` takes over: weights by name, and LayerNorm's epsilon."""

    layer_norm_eps: float
    weights: Mapping[str, Tensor] | None = None  # None if our own checkpoint holds them


def pretrained_head(
    source: str, config: PretrainedConfig, unexpected: Iterable[str]
) -> PretrainedHead | None:
    """The head of a checkpoint; None if it has none that ours can take over.

    Our head is dense, exact GELU, LayerNorm and the word embeddings with a bias. Heads of other
    families, with another activation or with their own decoder can't be taken over.

    Args:
        source: folder or hub name of the checkpoint.
        config: its configuration.
        unexpected: names of weights that the encoder, which has no head, didn't use.
    """
    if config.model_type not in _PARTS:
        return None
    dense_name, norm_name, bias_name = _PARTS[config.model_type]
    activations = {getattr(config, name) for name in _ACTIVATIONS if hasattr(config, name)}
    tied = getattr(config, "tie_word_embeddings", True)
    if not tied or activations != {"gelu"} or not _holds(unexpected, dense_name):
        return None
    model, report = AutoModelForMaskedLM.from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    if _holds(report["missing_keys"], dense_name, norm_name, f"{bias_name}.bias"):
        return None
    dense, norm = model.get_submodule(dense_name), model.get_submodule(norm_name)
    words = model.get_input_embeddings().weight
    weights = {
        "dense.weight": dense.weight,
        "dense.bias": _or_zero(dense.bias, dense.weight),
        "norm.weight": norm.weight,
        "norm.bias": _or_zero(norm.bias, norm.weight),
        "bias": _or_zero(model.get_submodule(bias_name).bias, words),
    }
    detached = {name: weight.detach() for name, weight in weights.items()}
    return PretrainedHead(norm.eps, detached)


def _holds(names: Iterable[str], *beginnings: str) -> bool:
    return any(name.startswith(beginnings) for name in names)


def _or_zero(bias: Any, weight: Tensor) -> Tensor:
    """The bias, or zeros for a family without one."""
    return weight.new_zeros(len(weight)) if bias is None else bias
