"""Trained rerankers that a configuration names, as ours or published, for the run's backbone."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.protocol import Backbone
from edje.config.building import backbone_from
from edje.config.choices import STARTS
from edje.errors import EdjeError
from edje.identity import canonical_identity
from edje.inference.checkpoint import (
    PREFIX,
    BackboneFacts,
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
from edje.pipeline.first_stage import FittedProjections

log = logging.getLogger(__name__)


def load_trained(cfg: DictConfig, key: str, backbone: Backbone | None = None) -> Checkpoint:
    """The reranker that `cfg[key]` names: a checkpoint of ours, or one of the published format.

    One that doesn't say whose tokens it reads is bound to the run's backbone, which is built
    for it where it isn't given, once all is compared that can be.

    Raises:
        EdjeError: it can't be read, or doesn't fit the language model or the backbone.
    """
    given = str(cfg[key])
    published = is_published(find_checkpoint(Path(given)))
    if not published:
        checkpoint = load_checkpoint(Path(given))
        if knows_its_backbone(checkpoint.backbone):
            return checkpoint
    if backbone is None:
        backbone = backbone_from(cfg.backbone)
        assert backbone is not None
    compared = ""
    if published:
        same = check_published(given, key, backbone)
        compared = f", {same} tensors of the towers are the same" if same else ""
        checkpoint = trained_file(cfg, key, facts_of(backbone))()
    checkpoint = bound(checkpoint, backbone, cfg, key)
    log.info(
        "%s=%s is bound to this run's backbone: the widths fit%s; nothing in it says which layer "
        "and which preprocessing it was trained with",
        key,
        given,
        compared,
    )
    return checkpoint


def check_early(cfg: DictConfig, backbone: Backbone) -> None:
    """Look at what a training run starts from and learns from, before anything is computed.

    Raises:
        EdjeError: there is no such checkpoint, or it reads the tokens of another backbone.
    """
    named = {"initial": cfg.initial if cfg.initial not in STARTS else None, "miner": cfg.miner}
    if cfg.objective.get("distillation") is not None:
        named["teacher"] = cfg.teacher
    for key, given in named.items():
        if given is None:
            continue
        if is_published(find_checkpoint(Path(given))):
            check_published(str(given), key, backbone)
        else:
            check_own(str(given), key, backbone)


def check_own(given: str, key: str, backbone: Backbone) -> None:
    """Check that a checkpoint of ours was trained on the tokens of the run's backbone.

    Raises:
        EdjeError: it wasn't; the message names what differs.
    """
    trained = read_checkpoint(Path(given))["edje"]["backbone"]
    own = canonical_identity(backbone.identity())
    differing = sorted(name for name in {*trained, *own} if trained.get(name) != own.get(name))
    if differing and knows_its_backbone(trained):
        raise EdjeError(
            f"{key}={given}: it reads the tokens of another backbone, or of another layer, than "
            f"this run's (their {', '.join(differing)} differ). Give one of a run on the same "
            f"backbone, or leave {key} out."
        )


def trained_file(cfg: DictConfig, key: str, facts: BackboneFacts) -> Callable[[], Checkpoint]:
    """What reads the reranker that `cfg[key]` names, in another process too, and binds nothing."""
    given = str(cfg[key])
    if not is_published(find_checkpoint(Path(given))):
        return partial(load_checkpoint, Path(given))
    pretrained = cfg.joint.get("pretrained")
    if pretrained is None:
        raise EdjeError(
            f"{key}={given}: a published checkpoint holds no tokenizer, and joint has no "
            "pretrained to take it from. Give joint=minilm, or joint.pretrained=<folder or hub "
            "name of the language model that it was trained with>."
        )
    tower = str(cfg.backbone.get("pretrained", cfg.backbone._target_))
    attention = cfg.joint.get("attention", "sdpa")
    return partial(reference_checkpoint, given, str(pretrained), facts, tower, attention)


def trained_content(cfg: DictConfig, key: str, backbone: Backbone) -> dict[str, Any]:
    """What `read_checkpoint` gives of a checkpoint of ours, also of a published one.

    Raises:
        EdjeError: it can't be read, or doesn't fit the language model or the backbone.
    """
    path = Path(str(cfg[key]))
    if not is_published(find_checkpoint(path)):
        content = read_checkpoint(path)
        if knows_its_backbone(content["edje"]["backbone"]):
            return content
    checkpoint = load_trained(cfg, key, backbone)
    state = {PREFIX + name: tensor for name, tensor in checkpoint.model.state_dict().items()}
    return {"state_dict": state, **checkpoint_fields(checkpoint)}


def facts_of(backbone: Backbone) -> BackboneFacts:
    """What an adapter must know of a backbone."""
    return BackboneFacts(
        num_tokens=backbone.num_tokens,
        token_width=backbone.token_width,
        num_heads=backbone.num_heads,
        layer_norm_eps=backbone.layer_norm_eps,
        embedding_width=backbone.embedding_width,
    )


def check_published(given: str, key: str, backbone: Backbone) -> int:
    """Compare a published checkpoint with a backbone; how many tensors of the towers are in both.

    Raises:
        EdjeError: it was trained on another backbone's tokens.
    """
    state = read_published(find_checkpoint(Path(given)))
    towers = backbone.model.state_dict() if isinstance(backbone, HuggingFaceBackbone) else {}
    refuse(
        backbone_problems(state, backbone.token_width, backbone.embedding_width, towers), key, given
    )
    return len(shared_towers(state, towers))


def bound(checkpoint: Checkpoint, backbone: Backbone, cfg: DictConfig, key: str) -> Checkpoint:
    """A checkpoint that doesn't say whose tokens it reads, now with this backbone's identity.

    Where it is the run's own checkpoint, it carries the run's configuration too: saved, it is
    one of ours.

    Raises:
        EdjeError: it was made for another shape of tokens, or the backbone's first stage is fitted.
    """
    if isinstance(backbone, FittedProjections):
        raise EdjeError(
            f"{key}={cfg[key]}: it holds no first stage, and that of backbone="
            f"{type(backbone).__name__} is fitted by a training run. Take a dual encoder."
        )
    made_for, given = asdict(checkpoint.facts), asdict(facts_of(backbone))
    differing = (
        f"{name} is {made_for[name]} in it, {given[name]} in the backbone"
        for name in given
        if made_for[name] != given[name]
    )
    refuse(differing, key, str(cfg[key]))
    own = OmegaConf.to_yaml(cfg, resolve=False) if key == "checkpoint" else checkpoint.config
    return replace(checkpoint, backbone=backbone.identity(), config=own)


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
