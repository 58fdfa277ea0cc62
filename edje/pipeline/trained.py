"""Loading trained rerankers, ours or published, by a user's name, for a run's backbone."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.identity import differing_names
from edje.inference.checkpoint import (
    PREFIX,
    Checkpoint,
    checkpoint_fields,
    knows_its_backbone,
    load_checkpoint,
    read_checkpoint,
)
from edje.inference.location import find_checkpoint
from edje.inference.published import (
    backbone_problems,
    is_published,
    read_published,
    shared_towers,
)
from edje.inference.reference import reference_checkpoint
from edje.inference.run_choices import differing_facts, facts_of
from edje.language_model import Attention
from edje.models.adapters import BackboneFacts
from edje.pipeline.first_stage import FittedProjections

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Published:
    """Facts that a published checkpoint lacks, if one is named.

    Args:
        language_model: folder or hub name of its language model, for the tokenizer.
        attention: transformers' implementation of attention.
        vision_tower: folder or hub name of the tower, for messages.
        config: the run's configuration as YAML, for a checkpoint that is evaluated.
    """

    language_model: str | None = None
    attention: Attention = "sdpa"
    vision_tower: str = "the backbone"
    config: str = ""


def load_trained(
    given: str, key: str, backbone: Callable[[], Backbone], published: Published
) -> Checkpoint:
    """The reranker named by `given`: our checkpoint, or one in the published format.

    A reranker that doesn't say whose tokens it reads is bound to the run's backbone, which is only
    built in that case. `key` is the option that named it, such as teacher.

    Raises:
        EdjeError: it can't be read, or doesn't fit the language model or the backbone.
    """
    is_others = is_published(find_checkpoint(Path(given)))
    if not is_others:
        checkpoint = load_checkpoint(Path(given))
        if knows_its_backbone(checkpoint.backbone):
            return checkpoint
    own = backbone()
    compared = ""
    if is_others:
        same = check_published(given, key, own)
        compared = f", {same} tensors of the towers are the same" if same else ""
        checkpoint = trained_file(given, key, facts_of(own), published)()
    checkpoint = bound(checkpoint, own, given, key, published)
    log.info(
        "%s=%s is bound to this run's backbone: the widths fit%s; the file doesn't say with which "
        "layer and preprocessing it was trained",
        key,
        given,
        compared,
    )
    return checkpoint


def check_named(named: Mapping[str, str | None], backbone: Backbone) -> None:
    """Check the rerankers that a training run names, by key, before anything is computed.

    Raises:
        EdjeError: there is no such checkpoint, or it reads the tokens of another backbone.
    """
    for key, given in named.items():
        if given is None:
            continue
        if is_published(find_checkpoint(Path(given))):
            check_published(given, key, backbone)
        else:
            check_own(given, key, backbone)


def check_own(given: str, key: str, backbone: Backbone) -> None:
    """Check that our checkpoint was trained on the tokens of the run's backbone.

    Raises:
        EdjeError: it wasn't; the message says what differs.
    """
    trained = read_checkpoint(Path(given))["edje"]["backbone"]
    differing = differing_names(trained, backbone.identity())
    if differing and knows_its_backbone(trained):
        raise EdjeError(
            f"{key}={given}: it reads tokens of another backbone, or of another layer, than this "
            f"run's (they differ in {', '.join(differing)}). Give a reranker of a run on the same "
            f"backbone, or leave {key.split('.')[0]} out."
        )


def trained_file(
    given: str, key: str, facts: BackboneFacts, published: Published
) -> Callable[[], Checkpoint]:
    """A function that loads this reranker without binding it; it can run in another process.

    Raises:
        EdjeError: it is a published one, and there is no language model for its tokenizer.
    """
    if not is_published(find_checkpoint(Path(given))):
        return partial(load_checkpoint, Path(given))
    if published.language_model is None:
        raise EdjeError(
            f"{key}={given}: a published checkpoint holds no tokenizer, and joint has no "
            "pretrained to take it from. Give joint=minilm, or joint.pretrained=<folder or hub "
            "name of the language model that it was trained with>."
        )
    return partial(
        reference_checkpoint,
        given,
        published.language_model,
        facts,
        published.vision_tower,
        published.attention,
    )


def trained_content(
    given: str, key: str, backbone: Backbone, published: Published
) -> dict[str, Any]:
    """The result of `read_checkpoint`, also for a published checkpoint.

    Raises:
        EdjeError: it can't be read, or doesn't fit the language model or the backbone.
    """
    path = Path(given)
    if not is_published(find_checkpoint(path)):
        content = read_checkpoint(path)
        if knows_its_backbone(content["edje"]["backbone"]):
            return content
    checkpoint = load_trained(given, key, lambda: backbone, published)
    state = {PREFIX + name: tensor for name, tensor in checkpoint.model.state_dict().items()}
    return {"state_dict": state, **checkpoint_fields(checkpoint)}


def check_published(given: str, key: str, backbone: Backbone) -> int:
    """Compare a published checkpoint with a backbone; returns the number of shared tower tensors.

    Raises:
        EdjeError: it was trained on another backbone's tokens.
    """
    state = read_published(find_checkpoint(Path(given)))
    towers = backbone.model.state_dict() if isinstance(backbone, HuggingFaceBackbone) else {}
    refuse(
        backbone_problems(state, backbone.token_width, backbone.embedding_width, towers), key, given
    )
    return len(shared_towers(state, towers))


def bound(
    checkpoint: Checkpoint, backbone: Backbone, given: str, key: str, published: Published
) -> Checkpoint:
    """A checkpoint that doesn't say whose tokens it reads, now with this backbone's identity.

    If it is the run's own checkpoint, it gets the run's configuration too; once saved, it is one
    of ours.

    Raises:
        EdjeError: it was made for tokens of another shape, or the backbone's first stage is fitted.
    """
    if isinstance(backbone, FittedProjections):
        raise EdjeError(
            f"{key}={given}: it has no first stage, but backbone={type(backbone).__name__} needs "
            "one that a training run fits. Use a dual encoder."
        )
    refuse(iter(differing_facts(checkpoint, backbone)), key, given)
    config = published.config if key == "checkpoint" else checkpoint.config
    return replace(checkpoint, backbone=backbone.identity(), config=config)


def refuse(differences: Iterator[str], key: str, given: str) -> None:
    """Raise an error that shows the first few differences, if there are any."""
    found = list(differences)
    if found:
        more = f"; and {len(found) - 3} more" if found[3:] else ""
        raise EdjeError(
            f"{key}={given}: it was trained on another backbone's tokens: "
            f"{'; '.join(found[:3])}{more}. Give the backbone that it was trained on "
            "(backbone=siglip2_l16_384 for the published SigLIP2 L/16)."
        )
