"""The part of a checkpoint's run configuration that scoring pictures depends on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import yaml

from edje.backbones.loading import load_backbone
from edje.backbones.option_values import resolved
from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.identity import differing_names
from edje.inference.checkpoint import Checkpoint, knows_its_backbone
from edje.inference.precisions import PRECISIONS
from edje.models.adapters import BackboneFacts
from edje.records import Direction
from edje.renames import present_configuration
from edje.retrieval.calibration import Calibration
from edje.tokens.codec import CodecName

CODECS = ("raw_codec", "compressed_codec")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first, in C, is seven times as fast
Score = Literal["joint", "residual", "sum"]


@dataclass(frozen=True)
class RunChoices:
    """How a run scored, with defaults for what its checkpoint doesn't say.

    A published checkpoint says nothing about it, so it is read in float32.
    """

    score: Score = "joint"
    precision: torch.dtype = torch.float32
    raw_codec: CodecName = "bf16"
    compressed_codec: CodecName = "bf16"
    tower_precision: str = "tf32"
    num_tokens: int | None = None


def choices_of(checkpoint: Checkpoint) -> RunChoices:
    """The choices of the run that wrote a checkpoint.

    Raises:
        EdjeError: it names an unknown codec or an invalid number of tokens.
    """
    config = configuration_of(checkpoint)
    scoring, storage = (_section(config, name) for name in ("scoring", "storage"))
    plain = RunChoices()
    # Only a training with score=sum leaves its weights, so they say it where nothing else does.
    score = config.get("score", "sum" if checkpoint.fusion else plain.score)
    if checkpoint.model.residual is not None and score == "joint":
        score = "residual"
    num_tokens = scoring.get("num_tokens")
    codecs = {name: storage.get(name, getattr(plain, name)) for name in CODECS}
    wrong = {name: value for name, value in codecs.items() if value not in get_args(CodecName)}
    if not isinstance(num_tokens, int | None):
        wrong["num_tokens"] = num_tokens
    if wrong:
        said = ", ".join(f"{name}={value}" for name, value in wrong.items())
        raise EdjeError(
            f"the checkpoint's configuration says {said}; expected a whole number of tokens, and "
            f"codecs of {', '.join(get_args(CodecName))}. It is damaged, or from a later edje."
        )
    return RunChoices(
        score=score if score in get_args(Score) else plain.score,
        precision=PRECISIONS.get(str(scoring.get("precision")), plain.precision),
        tower_precision=storage.get("tower_precision", plain.tower_precision),
        num_tokens=num_tokens,
        **codecs,
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def calibrations_for(checkpoint: Checkpoint, score: Score) -> Mapping[Direction, Calibration]:
    """The calibrations for the reranker's number of tokens and this score; else none."""
    found = checkpoint.calibration.get(checkpoint.model.adapter.num_tokens, {})
    return {direction: one for direction, one in found.items() if one.score == score}


def configuration_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """A run's configuration as plain values, with present names; interpolations stay unresolved."""
    config = yaml.load(checkpoint.config, Loader=LOADER)
    return present_configuration(config) if isinstance(config, Mapping) else {}


def backbone_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a run's backbone is built: a mapping with `_target_`, interpolations resolved.

    Raises:
        EdjeError: the checkpoint has no configuration of a backbone.
    """
    config = configuration_of(checkpoint)
    if not isinstance(node := config.get("backbone"), Mapping):
        raise EdjeError(
            "the checkpoint doesn't say how its backbone is built. Pass the one that it was "
            'trained with: backbone=edje.load_backbone("siglip2_l16_384"), for example, to '
            "edje.Reranker.from_pretrained or edje.evaluate."
        )
    return resolved(node, "the checkpoint's backbone", config)


def backbone_of(checkpoint: Checkpoint) -> Backbone:
    """The frozen encoder that a checkpoint's run was configured with, with its first stage.

    Raises:
        EdjeError: the checkpoint has no configuration of a backbone, it can't be built here, or
            its tokens aren't those that the reranker was trained on.
    """
    return fitting(checkpoint, _built_backbone(checkpoint))


def _built_backbone(checkpoint: Checkpoint) -> Backbone:
    values = backbone_values(checkpoint)
    try:
        return load_backbone(values)
    except EdjeError:
        raise
    except Exception as error:  # values that its parts can't take
        raise EdjeError(
            f"the checkpoint's backbone can't be built: {type(error).__name__}: {error}. Its "
            f"configuration says {values}."
        ) from error


def fitting(checkpoint: Checkpoint, backbone: Backbone) -> Backbone:
    """The backbone, if a checkpoint reads its tokens, now with the checkpoint's first stage.

    Raises:
        EdjeError: its tokens aren't those that the reranker was trained on.
    """
    if knows_its_backbone(checkpoint.backbone):
        check_identity(checkpoint, backbone)
    elif differing := differing_facts(checkpoint, backbone):
        raise EdjeError(f"the checkpoint was made for another backbone: {'; '.join(differing)}.")
    if checkpoint.first_stage:
        backbone.load_first_stage_state(checkpoint.first_stage)  # type: ignore[attr-defined]
    return backbone


def facts_of(backbone: Backbone) -> BackboneFacts:
    """What an adapter must know about a backbone."""
    return BackboneFacts(
        num_tokens=backbone.num_tokens,
        token_width=backbone.token_width,
        num_heads=backbone.num_heads,
        layer_norm_eps=backbone.layer_norm_eps,
        embedding_width=backbone.embedding_width,
    )


def differing_facts(checkpoint: Checkpoint, backbone: Backbone) -> list[str]:
    """The facts in which a backbone's tokens differ from those that a reranker was made for."""
    made_for, here = asdict(checkpoint.facts), asdict(facts_of(backbone))
    return [
        f"{name} is {made_for[name]} in it, {here[name]} in the backbone"
        for name in here
        if made_for[name] != here[name]
    ]


def check_identity(checkpoint: Checkpoint, backbone: Backbone) -> None:
    """Refuse a backbone whose tokens aren't those that a reranker was trained on.

    Raises:
        EdjeError: it differs; the message says in what.
    """
    if differing := differing_identity(checkpoint.backbone, backbone.identity()):
        raise EdjeError(
            f"the checkpoint was trained on another backbone's tokens ({'; '.join(differing)}). "
            "Give the backbone of its run."
        )


def differing_identity(trained: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What differs between the backbones of a training and of now, a phrase per fact."""
    before, now = (
        {key: str(value) for key, value in identity.items()} for identity in (trained, given)
    )
    return [
        f"{key}: trained on {before.get(key)}, given {now.get(key)}"
        for key in differing_names(before, now)
    ]
