"""Checkpoints in the published format: the reference implementation's names mapped to ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
    read_checkpoint,
)
from edje.inference.location import find_checkpoint
from edje.inference.published import BIAS, FROZEN, TIED, WORDS, is_published, read_published
from edje.language_model import (
    MAX_TRAINING_TOKENS,
    Attention,
    LanguageModel,
    usable_tokenizer,
)
from edje.models.adapters import BackboneFacts
from edje.models.joint_encoder import extend_position_table
from edje.packaged import packaged_source
from edje.ranges import check_path

if TYPE_CHECKING:
    from edje.inference.reranker import Reranker

# Prefixes of our names and of theirs; the longest matching prefix is used.
NAMES = {
    "joint.language_model.": "language_model.bert.",
    "match.dense.": "classification_head.0.dense.",
    "match.score.": "classification_head.1.",
    "masked_language.dense.": "language_model.cls.predictions.transform.dense.",
    "masked_language.norm.": "language_model.cls.predictions.transform.LayerNorm.",
    "masked_language.bias": "language_model.cls.predictions.bias",
    "text_recovery.": "text_projection.",
}
LOCAL_NAMES = {
    "adapter.expand.": "vision_projection.0.",
    "adapter.project.": "vision_projection.2.",
}
COMPRESSION_NAMES = {
    "adapter.": "vision_projection.",
    "adapter.norm.": "vision_projection.layernorm.",
    "adapter.expand.": "vision_projection.mlp.fc1.",
    "adapter.contract.": "vision_projection.mlp.fc2.",
    "adapter.project.": "vision_projection.projection.",
}
OURS_ALONE = ("first_stage_mean", "first_stage_deviation")  # constants of score=residual

POSITIONS = "language_model.bert.embeddings.position_embeddings.weight"


def load_reference_checkpoint(
    path: str | Path, *, language_model: str | Path, vision_tower: str | Path
) -> "Reranker":
    """The reranker of a checkpoint in the published format, local or compressed.

    Two differences from the folders are allowed: one more row of word embeddings (the image
    placeholder, dropped) and more rows of positions (kept). Every other name and shape must be
    as expected; the frozen towers in the file are ignored.

    Args:
        path: the file, read as tensors and plain values, without running pickled code; or
            anything that `find_checkpoint` accepts, such as the hub name of its repository.
        language_model: folder or hub name of a BERT or MiniLM, for its configuration and tokenizer.
        vision_tower: folder or hub name of a CLIP or SigLIP, whose configuration has the adapter's
            number of heads and LayerNorm epsilon.

    Raises:
        EdjeError: a file can't be read, or names or shapes differ.
    """
    from edje.inference.reranker import Reranker  # it imports this module

    check_path("path", path)
    tower = str(vision_tower)
    return Reranker(reference_checkpoint(str(path), str(language_model), tower_facts(tower), tower))


def reference_checkpoint(
    given: str,
    language_model: str,
    facts: BackboneFacts,
    vision_tower: str,
    attention: Attention = "sdpa",
    *,
    config: str | None = None,
    name: str | None = None,
) -> Checkpoint:
    """The same as a `Checkpoint`, given the vision tower's facts; it is bound to no backbone.

    `config` is the configuration that the checkpoint then carries, and `name` its name.

    Raises:
        EdjeError: a file can't be read, or names or shapes differ.
    """
    path = find_checkpoint(Path(given))
    state = {n: t for n, t in read_published(path).items() if not n.startswith(FROZEN)}
    words = _language_model(language_model, attention)
    vocabulary = words.encoder.config.vocab_size
    positions = words.encoder.config.max_position_embeddings
    adapter, adapter_names = _adapter(state, given)
    if POSITIONS in state and adapter_names is LOCAL_NAMES and len(state[POSITIONS]) > positions:
        _check_number_of_tokens(len(state[POSITIONS]), facts.num_tokens, given)
    model = build_reranker(adapter, facts, words, residual=False)
    state = _without_placeholder(state, vocabulary)
    if POSITIONS in state and len(state[POSITIONS]) >= positions:
        extend_position_table(words.encoder, len(state[POSITIONS]))
        state[POSITIONS] = _repeat_last_row(
            state[POSITIONS], words.encoder.config.max_position_embeddings
        )
    own = model.state_dict()
    theirs = {
        name: _their_name(name, NAMES | adapter_names) for name in own if name not in OURS_ALONE
    }
    shapes = {theirs[name]: tuple(own[name].shape) for name in theirs}
    problems = list(_problems(state, shapes))
    if problems:
        more = f"; and {len(problems) - 4} more" if problems[4:] else ""
        raise EdjeError(
            f"{given}: it doesn't fit language_model={language_model} and "
            f"vision_tower={vision_tower}: {'; '.join(problems[:4])}{more}. Give the folders or "
            "hub names of the models it was trained with."
        )
    model.load_state_dict({name: state[theirs[name]] for name in theirs}, strict=False)
    name = name or (path.name if Path(given).exists() else given)
    return Checkpoint(
        model=model.eval(),
        language_model=words,
        facts=facts,
        adapter=adapter,
        config=config or f"name: {path.stem}\n",
        backbone={"backbone": vision_tower},
        label=f"unknown sets (published checkpoint {name})",
        first_stage={},
        fusion={},
    )


def configuration_of(path: Path) -> str:
    """The configuration in a checkpoint, as YAML; for a published one only a name.

    Raises:
        EdjeError: there is no checkpoint, or it is neither ours nor a published one.
    """
    file = find_checkpoint(path)
    return f"name: {file.stem}\n" if is_published(file) else read_checkpoint(path)["edje_config"]


def adapter_of(path: Path) -> AdapterSpecification:
    """The adapter of a checkpoint, ours or a published one.

    Raises:
        EdjeError: there is no checkpoint, or it is neither ours nor a published one.
    """
    file = find_checkpoint(path)
    if is_published(file):
        return _adapter(read_published(file), str(path))[0]
    return AdapterSpecification(**read_checkpoint(path)["edje"]["adapter"])


def _check_number_of_tokens(rows: int, num_tokens: int, given: str) -> None:
    """Check a local adapter's number of tokens against its extended position table."""
    trained = rows - MAX_TRAINING_TOKENS
    if trained != num_tokens:
        raise EdjeError(
            f"{given}: its {rows} positions were made for {trained} vision tokens per image, but "
            f"the backbone gives {num_tokens}. Use the backbone that it was trained on."
        )


def _language_model(source: str, attention: Attention) -> LanguageModel:
    """A BERT with the folder's configuration and fresh weights, and its tokenizer."""
    folder = packaged_source(source) or source
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EdjeError(
            f"language_model={source}: no configuration and tokenizer could be read there "
            f"({type(error).__name__}). Give a folder made by save_pretrained, or a hub name that "
            "this machine can reach."
        ) from error
    is_bert = config.model_type == "bert" and config.hidden_act == "gelu"
    if not is_bert or not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EdjeError(
            f"language_model={source}: is a {config.model_type!r} with {type(tokenizer).__name__}; "
            "expected a BERT (MiniLM is one) with exact GELU and a tokenizer.json. Give the "
            "language model that the checkpoint was trained with."
        )
    encoder = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention)
    return LanguageModel(encoder, usable_tokenizer(tokenizer, f"language_model={source}"))


def tower_facts(source: str) -> BackboneFacts:
    """What the adapter must know about the vision tower; heads and epsilon have no default."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        vision = getattr(config, "vision_config", config)
        return BackboneFacts(
            num_tokens=(vision.image_size // vision.patch_size) ** 2,
            token_width=vision.hidden_size,
            num_heads=vision.num_attention_heads,
            layer_norm_eps=vision.layer_norm_eps,
            embedding_width=getattr(config, "projection_dim", None) or vision.hidden_size,
        )
    except (OSError, ValueError, AttributeError) as error:
        raise EdjeError(
            f"vision_tower={source}: no configuration of a vision transformer could be read there "
            f"({type(error).__name__}). Give the folder or hub name of the CLIP or SigLIP that the "
            "checkpoint was trained with."
        ) from error


def _adapter(state: Mapping[str, Tensor], path: str) -> tuple[AdapterSpecification, dict[str, str]]:
    """The adapter that these tensors belong to, its sizes, and the names of its parts."""
    where = "edje.models.adapters."
    query = state.get("vision_projection.query")
    expand = state.get("vision_projection." + ("0" if query is None else "mlp.fc1") + ".weight")
    if expand is None or expand.ndim != 2 or (query is not None and query.ndim != 3):
        raise EdjeError(
            f"{path}: holds neither a local adapter (vision_projection.0.weight) nor a compressing "
            "one (vision_projection.query and mlp.fc1.weight). Give a checkpoint in the published "
            "format."
        )
    hidden = {"hidden_width": len(expand)}
    if query is None:
        return AdapterSpecification(where + "LocalAdapter", hidden), LOCAL_NAMES
    compression = AdapterSpecification(
        where + "TokenCompressionAdapter", {"num_tokens": query.shape[1], **hidden}
    )
    return compression, COMPRESSION_NAMES


def _without_placeholder(state: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """The state without the row after the vocabulary, whose embedding is always replaced."""
    rows = (WORDS, BIAS, *TIED)
    return {
        name: tensor[:vocabulary] if name in rows and len(tensor) == vocabulary + 1 else tensor
        for name, tensor in state.items()
    }


def _repeat_last_row(table: Tensor, rows: int) -> Tensor:
    """A table of at least `rows` rows; the last row is repeated, as when the model was built."""
    return torch.cat([table, table[-1:].expand(max(rows - len(table), 0), -1)])


def _their_name(name: str, names: Mapping[str, str]) -> str:
    """The reference implementation's name of one of our parameters."""
    ours = max((start for start in names if name.startswith(start)), key=len)
    return names[ours] + name.removeprefix(ours)


def _problems(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Every difference between a checkpoint and what is expected."""
    yield from (f"missing {name}" for name in (*shapes, *TIED) if name not in state)
    yield from (f"unknown {name}" for name in state if name not in shapes and name not in TIED)
    for name, expected in shapes.items():
        if name in state and tuple(state[name].shape) != expected:
            yield f"{name} is {tuple(state[name].shape)}, expected {expected}"
    for name, original in TIED.items():
        if name in state and original in state and not torch.equal(state[name], state[original]):
            yield f"{name} differs from {original}, to which it should be tied"
