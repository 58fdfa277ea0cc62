"""Language models for the joint encoder: an encoder of transformers with its tokenizer.

Built from a folder or hub name, from scratch, or from the specification in a checkpoint.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from edje.backbones.pretrained import UNREADABLE, check_complete, reason
from edje.errors import EdjeError
from edje.models.joint_options import PLAIN, JointOptions
from edje.models.suitability import unread_weights, why_unsuitable
from edje.packaged import packaged_source
from edje.pretrained_head import PretrainedHead, pretrained_head
from edje.ranges import NonNegativeInt, PositiveInt
from edje.records import TextBatch

log = logging.getLogger(__name__)

MAX_TEXT_TOKENS = 63  # [CLS], at most 61 word pieces, [SEP] (EDJE, section 3)
MAX_TRAINING_TOKENS = 64  # text recovery reads only the text, up to 62 word pieces

_TOKENIZED_AT_ONCE = 10_000  # a tokenizer holds kilobytes per text until all are done


@dataclass(frozen=True)
class LanguageModel:
    """An encoder, the tokenizer that it was trained with, and how visual tokens join it."""

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    options: JointOptions = PLAIN
    head: PretrainedHead | None = None  # for masked language; None starts fresh

    def specification(self) -> dict[str, Any]:
        """All that is needed to rebuild the architecture and tokenizer without any folder."""
        special = {
            name: getattr(self.tokenizer, name)
            for name in ("cls_token", "sep_token", "pad_token", "mask_token", "unk_token")
        }
        return {
            "config": self.encoder.config.to_json_string(use_diff=False),
            "attention": self.encoder.config._attn_implementation,
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "special_tokens": special,
            **asdict(self.options),
            "head_norm_eps": None if self.head is None else self.head.layer_norm_eps,
        }


# Eager is faster for short sequences on a CPU, and all that MPNet, DeBERTa and others have.
Attention = Literal["sdpa", "eager"]


def pretrained_language_model(
    *,
    pretrained: str,
    num_layers: PositiveInt | None = None,
    dropout: float | None = None,
    attention: Attention = "sdpa",
    fusion_layer: NonNegativeInt = 0,
    frozen_text: bool = False,
    evidence: bool = False,
    evidence_layers: Sequence[int] = (),
    evidence_dropout: float = 0.0,
) -> LanguageModel:
    """A trained encoder from a folder or hub name, with its first `num_layers` layers.

    `package:<name>` is the folder of a package of weights (`edje.packaged`). The masked-language
    head is loaded too if there is one (BERT has one, MiniLM hasn't). If `num_layers` is more than
    the encoder has, layers with fresh weights are added. `attention` names transformers'
    implementation of attention: same numbers, different speed. An encoder without sdpa runs with
    eager. `fusion_layer` is the layer at which visual tokens join (see `JointEncoder`). With
    `frozen_text` the word embeddings and the layers below it are not trained. `evidence` compares
    words and visual tokens at that layer and adds the result to the match logit (see
    `AlignmentEvidence`); it reads the words there and after the layers in `evidence_layers`.

    Raises:
        EdjeError: the folder, hub name or package can't be read, weights are missing there, its
            language model or tokenizer doesn't fit a joint encoder, or the options conflict.
    """
    options = JointOptions(
        fusion_layer, frozen_text, evidence, tuple(evidence_layers), evidence_dropout
    )
    source = _source(pretrained)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        _set_dropout(config, dropout)
        encoder, report = _pretrained_encoder(source, config, attention)
        if num_layers is not None:
            set_depth(encoder, num_layers)
        check_complete(f"joint.pretrained={pretrained}", report, encoder.state_dict())
        head = pretrained_head(source, config, report["unexpected_keys"])
    except UNREADABLE as error:
        raise EdjeError(
            f"joint.pretrained={pretrained}: no language model could be read there "
            f"({reason(error)}). Give a folder made by save_pretrained, with its tokenizer, "
            "or a hub name that this machine can reach."
        ) from error
    if head is None:
        log.info("%s: the masked-language head starts fresh", pretrained)
    words = usable_tokenizer(tokenizer, pretrained)
    _require_suitable(encoder, words, pretrained)
    return LanguageModel(encoder, words, options, head)


def new_language_model(
    *,
    tokenizer: str,
    width: PositiveInt = 128,
    num_layers: PositiveInt = 4,
    num_heads: PositiveInt = 4,
    hidden_width: PositiveInt = 512,
    max_positions: PositiveInt = 96,
    dropout: float = 0.1,
    attention: Attention = "sdpa",
    fusion_layer: NonNegativeInt = 0,
    evidence: bool = False,
    evidence_layers: Sequence[int] = (),
    evidence_dropout: float = 0.0,
) -> LanguageModel:
    """A BERT of these sizes, with fresh weights and the tokenizer of a folder or package.

    Raises:
        EdjeError: there is no usable tokenizer in the folder, or the options conflict.
    """
    options = JointOptions(fusion_layer, False, evidence, tuple(evidence_layers), evidence_dropout)
    source = _source(tokenizer)
    try:
        found = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except UNREADABLE as error:
        raise EdjeError(
            f"joint.tokenizer={tokenizer}: no tokenizer could be read there "
            f"({reason(error)}). Give a folder with a tokenizer.json."
        ) from error
    words = usable_tokenizer(found, tokenizer)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=hidden_width,
        max_position_embeddings=max_positions,
        pad_token_id=words.pad_token_id,
    )
    _set_dropout(config, dropout)
    encoder = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention)
    return LanguageModel(encoder, words, options)


def language_model_from_specification(specification: Mapping[str, Any]) -> LanguageModel:
    """The inverse of `LanguageModel.specification`, with fresh weights.

    Raises:
        EdjeError: it names an attention that transformers would download as third-party code.
    """
    from tokenizers import Tokenizer

    if "/" in (attention := specification["attention"]):  # a repository of kernels on the hub
        raise EdjeError(
            f"the checkpoint's language model asks for attention={attention}, which is code from "
            "a third party; expected sdpa or eager. Checkpoints never name such code: don't trust "
            "this file."
        )
    fields = json.loads(specification["config"])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    kwargs = {"add_pooling_layer": False} if config.model_type in _POOLED else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(specification["tokenizer"]),
        **specification["special_tokens"],
        **_ON_THE_RIGHT,
    )
    encoder = AutoModel.from_config(config, attn_implementation=attention, **kwargs)
    eps = specification.get("head_norm_eps")
    head = None if eps is None else PretrainedHead(eps)
    return LanguageModel(encoder, tokenizer, JointOptions.among(specification), head)


def set_depth(encoder: PreTrainedModel, num_layers: int) -> None:
    """Cut an encoder to its first `num_layers` layers, or append fresh layers.

    Raises:
        EdjeError: no layer would be left, or the layers aren't where BERT-like models keep them.
    """
    stack = getattr(encoder, "encoder", encoder)
    for name in ("layer", "layers"):
        layers = getattr(stack, name, None)
        if isinstance(layers, nn.ModuleList):
            break
    else:
        raise EdjeError(
            f"joint.num_layers={num_layers}: no list of layers found in {type(encoder).__name__}. "
            "Leave joint.num_layers=null for this language model."
        )
    if num_layers < 1:
        raise EdjeError(
            f"joint.num_layers={num_layers}: expected 1 or more, or null for the "
            f"{len(layers)} that this language model has."
        )
    config, own = encoder.config, len(layers)
    config.num_hidden_layers = num_layers
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:  # one per layer, in ModernBERT
        config.layer_types = [kinds[layer % own] for layer in range(num_layers)]
    kept = layers[:num_layers]
    if num_layers > own:
        fresh = AutoModel.from_config(config, attn_implementation=config._attn_implementation)
        kept.extend(getattr(getattr(fresh, "encoder", fresh), name)[own:])
    setattr(stack, name, kept)


def tokenize(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_tokens: int = MAX_TEXT_TOKENS
) -> TextBatch:
    """`[CLS] caption [SEP]` of each text, cut to `max_tokens`, padded to the longest."""
    parts = []
    for first in range(0, len(texts), _TOKENIZED_AT_ONCE):
        encoded = tokenizer(
            list(texts[first : first + _TOKENIZED_AT_ONCE]),
            truncation=True,
            max_length=max_tokens,
            padding="longest",
            return_tensors="pt",
            return_token_type_ids=False,
        )
        parts.append((encoded["input_ids"], encoded["attention_mask"].bool()))
    longest = max((ids.shape[1] for ids, _ in parts), default=0)
    input_ids = torch.full((len(texts), longest), tokenizer.pad_token_id or 0)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    first = 0
    for ids, present in parts:
        rows = slice(first, first + len(ids))
        input_ids[rows, : ids.shape[1]], mask[rows, : ids.shape[1]] = ids, present
        first += len(ids)
    return TextBatch(input_ids, mask)


def _source(value: str) -> str:
    """The folder of a package of weights if the value names one, else the value itself."""
    return str(packaged_source(value) or value)


def _pretrained_encoder(
    source: str, config: Any, attention: Attention
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """The encoder, in eval mode, and transformers' report on its weights."""
    kwargs = {"add_pooling_layer": False} if config.model_type in _POOLED else {}

    def load(attention: Attention) -> tuple[PreTrainedModel, Mapping[str, Any]]:
        loaded: tuple[PreTrainedModel, Mapping[str, Any]] = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `check_complete` reports them by name
            trust_remote_code=False,
            **kwargs,
        )
        return loaded

    try:
        return load(attention)
    except ValueError:
        if attention == "eager":
            raise
        loaded = load("eager")  # raises again if attention wasn't the reason
    log.info("%s has no %s attention: it runs with eager", type(loaded[0]).__name__, attention)
    return loaded


def _require_suitable(
    encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pretrained: str
) -> None:
    """Check that a joint encoder of this language model scores pairs by text and image alone.

    Weights that it keeps for other uses are frozen: several ranks would wait for their gradients.

    Raises:
        EdjeError: it doesn't.
    """
    cause: Exception | None = None
    separator = tokenizer.sep_token_id
    assert isinstance(separator, int)
    try:
        problem = why_unsuitable(encoder, separator)
    except EdjeError as error:
        raise EdjeError(f"joint.pretrained={pretrained}: {error}") from error
    except Exception as error:  # of any kind: it wants more than embeddings and a mask
        said = f"{type(error).__name__}: {reason(error)}"
        cause, problem = error, f"it can't run on embeddings and a mask ({said})"
    if problem is not None:
        raise EdjeError(
            f"joint.pretrained={pretrained}: {type(encoder).__name__} can't be a joint encoder: "
            f"{problem}. Give an encoder in which every position reads every other and none reads "
            "padding, such as MiniLM, BERT, RoBERTa, ELECTRA, DistilBERT, MPNet, DeBERTa or "
            "ModernBERT."
        ) from cause
    for weight in unread_weights(encoder, separator):
        weight.requires_grad_(False)


_ON_THE_RIGHT = {"padding_side": "right", "truncation_side": "right"}  # as `TextBatch` has it
_NEEDED = ("cls_token", "sep_token", "pad_token")


def usable_tokenizer(tokenizer: object, source: str) -> PreTrainedTokenizerFast:
    """The tokenizer, set to pad and cut on the right, if it makes `[CLS] caption [SEP]`.

    Raises:
        EdjeError: it is not a fast one (only those can be saved in a checkpoint, as JSON), has no
            words, which is what transformers returns when a tokenizer's files are missing, or
            doesn't begin a text with [CLS], end it with [SEP] or have a token for padding.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EdjeError(
            f"{source}: its tokenizer is a {type(tokenizer).__name__} without a tokenizer.json. "
            "Convert it to a fast tokenizer and save it beside the model."
        )
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        raise EdjeError(
            f"{source}: there is no tokenizer (no tokenizer.json or vocab.txt). Give a folder that "
            "holds the tokenizer's files beside the model."
        )
    if lacking := [name for name in _NEEDED if getattr(tokenizer, name) is None]:
        raise EdjeError(
            f"{source}: its tokenizer has no {' and no '.join(lacking)}; the joint encoder reads "
            "[CLS] caption [SEP] and padding. Set them in its tokenizer_config.json, or use a "
            "language model that was trained with them, such as MiniLM or BERT."
        )
    ids = tokenizer("").input_ids
    if len(ids) < 2 or (ids[0], ids[-1]) != (tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise EdjeError(
            f"{source}: its tokenizer makes {tokenizer.convert_ids_to_tokens(ids)} of an empty "
            f"text; the joint encoder reads {tokenizer.cls_token} caption {tokenizer.sep_token}. "
            "Give it such a template (post_processor in tokenizer.json), or use a language model "
            "that was trained with one, such as MiniLM or BERT."
        )
    for side, value in _ON_THE_RIGHT.items():
        setattr(tokenizer, side, value)
    return tokenizer


_POOLED = frozenset({"bert", "roberta", "xlm-roberta"})  # models with a pooler that we don't use


_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),  # BERT and similar
    *("embedding_dropout", "attention_dropout", "mlp_dropout"),  # ModernBERT
    "dropout",  # DistilBERT, beside attention_dropout
)


def _set_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout of an encoder, if one is asked for.

    Raises:
        EdjeError: the configuration has none of the known names.
    """
    if dropout is None:
        return
    names = [name for name in _DROPOUTS if hasattr(config, name)]
    if not names:
        raise EdjeError(
            f"joint.dropout={dropout}: the configuration of a {config.model_type!r} has none of "
            f"{', '.join(_DROPOUTS)}. Leave joint.dropout=null for this language model."
        )
    for name in names:
        setattr(config, name, dropout)
