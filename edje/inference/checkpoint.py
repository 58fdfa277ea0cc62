"""Checkpoints: all that is needed to rebuild a trained reranker, readable with weights only.

A checkpoint is a dictionary of tensors, numbers and strings, so `torch.load(weights_only=True)`
reads it: `state_dict` (the reranker's), `edje` (the specification below) and `edje_config` (the
run's configuration as a YAML string). Lightning's training checkpoints add these keys to
its own.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import edje
from edje.durable import new_file
from edje.errors import EdjeError, first_line
from edje.identity import canonical_identity
from edje.inference.calibrations import Calibrations, calibrations_of, plain_calibrations
from edje.inference.fitted_sums import FittedSums, plain_sums, sums_of
from edje.inference.location import CONFIG, TOKENIZER, WEIGHTS, find_checkpoint, is_saved
from edje.inference.published import is_published
from edje.language_model import (
    MAX_TEXT_TOKENS,
    LanguageModel,
    language_model_from_specification,
)
from edje.models.adapters import Adapter, BackboneFacts
from edje.models.edje import EDJE
from edje.models.evidence import AlignmentEvidence
from edje.models.joint_encoder import JointEncoder
from edje.part_kinds import lacking_when_built
from edje.registry import find, how_to_register, ours, packages_of, short_name, unknown

log = logging.getLogger(__name__)
TARGET = re.compile(r"^\s*_target_: ['\"]?([\w-]+)['\"]?\s*$", re.MULTILINE)  # short names in YAML
PREFIX = "model."  # the reranker's attribute in the LightningModule


@dataclass(frozen=True)
class AdapterSpecification:
    """An adapter's registered name and its keyword-only choices; ours also have dotted names."""

    target: str
    choices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded reranker and everything saved with it."""

    model: EDJE
    language_model: LanguageModel
    facts: BackboneFacts
    adapter: AdapterSpecification
    config: str  # the run's configuration, YAML
    backbone: dict[str, str | int | float]  # identity, or only the name, of the token source
    label: str  # what it was trained on
    first_stage: dict[str, Tensor]  # aligned projections' state; empty for dual encoders
    fusion: FittedSums  # weights of score=sum; empty until they are fitted
    calibration: Calibrations = field(default_factory=dict)  # empty if there was no dev split
    held_back: Mapping[str, int] = field(default_factory=dict)  # its run's dev_images and dev_seed
    text_backbone: Mapping[str, Any] = field(default_factory=dict)  # first_stage's caption encoder
    started_from: Mapping[str, Any] = field(default_factory=dict)  # of `origin`; empty if fresh
    notes: str = ""  # of its maker, for the model card
    licence: str = ""  # as the hub names it


def build_reranker(
    adapter: AdapterSpecification,
    facts: BackboneFacts,
    language_model: LanguageModel,
    residual: bool,
) -> EDJE:
    """An EDJE around a language model; everything else is fresh, except a pretrained head.

    Raises:
        EdjeError: no such adapter is registered, or it rejects its choices.
    """
    cls = adapter_class(adapter.target)
    width = language_model.encoder.config.hidden_size
    try:
        built = cls(facts.beside(width), **adapter.choices)
    except (ValueError, TypeError, AssertionError) as error:
        raise EdjeError(
            f"adapter ({cls.__name__}) with {dict(adapter.choices)}: {error}"
        ) from error
    if (reason := lacking_when_built("adapter", built)) is not None:
        raise EdjeError(f"adapter ({cls.__name__}): {reason}.")
    assert isinstance(built, Adapter)
    if ours("adapter", adapter.target) is None:
        check_output(built, facts, width)
    separator = language_model.tokenizer.sep_token_id
    options = language_model.options
    joint = JointEncoder(
        language_model.encoder, separator, MAX_TEXT_TOKENS, built.num_tokens, options
    )
    evidence = AlignmentEvidence(width, joint.text_width, options) if options.evidence else None
    model = EDJE(built, joint, facts.embedding_width, residual, evidence)
    if language_model.head is not None:
        model.masked_language.take_over(
            language_model.head.layer_norm_eps, language_model.head.weights
        )
    return model


def check_output(adapter: Adapter, facts: BackboneFacts, width: int) -> None:
    """Check, before any work, that an adapter can compress two images of random tokens.

    Raises:
        EdjeError: it fails, or its output isn't of shape (batch, num_tokens, width).
    """
    if any(parameter.is_meta for parameter in adapter.parameters()):
        return  # built only to count parameters
    name = f"adapter ({type(adapter).__name__})"
    tokens = torch.randn(2, facts.num_tokens, facts.token_width, generator=torch.Generator())
    is_training = adapter.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            given = adapter.eval()(tokens)
    except Exception as error:  # a user's own adapter may raise anything
        raise EdjeError(
            f"{name}: its forward fails on tokens of shape {tuple(tokens.shape)}, (images, the "
            f"backbone's tokens, their width): {type(error).__name__}: {error} (EDJE_DEBUG=1 shows "
            "where)."
        ) from error
    finally:
        adapter.train(is_training)
    right = (2, adapter.num_tokens, width)
    if not isinstance(given, Tensor) or tuple(given.shape) != right:
        shape = tuple(given.shape) if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise EdjeError(
            f"{name}: for tokens of shape {tuple(tokens.shape)} its forward returns {shape}, "
            f"expected {right}: (images, its num_tokens, the joint encoder's width: facts.width)."
        )


def adapter_class(
    target: str, where: str = "adapter._target_", package: str | None = None
) -> type[Adapter]:
    """The adapter of a name: a short name, or the dotted name of a registered class.

    Nothing is imported because a name says so. If there is no such adapter, the message uses
    `where`, the place of the name, and `package`, which once provided the adapter.

    Raises:
        EdjeError: there is no such adapter.
    """
    part = ours("adapter", target) or find("adapter", target)
    if part is not None:
        return part.load()
    if target.startswith("edje."):
        raise EdjeError(f"{where}: edje has no adapter {target}.")
    if "." in target:
        raise EdjeError(
            f"{where}: {target} is not registered, and a checkpoint can only name a registered "
            f"adapter. {how_to_register('adapter')}"
        )
    raise unknown("adapter", target, where, package)


def keep_first_tokens(
    checkpoint: Checkpoint, num_tokens: int, *, is_recorded: bool = False
) -> Checkpoint:
    """A reranker with nested budgets that returns only the first `num_tokens` visual tokens.

    It shares its weights with the original. The weights of score=sum and the calibration are
    those fitted with this number of tokens, or none if none were fitted. `is_recorded` takes any
    number up to all tokens: runs of version 0.1.0 could score with one between the budgets.

    Raises:
        EdjeError: its adapter was trained without budgets, or not for this number of tokens.
    """
    adapter = checkpoint.model.adapter
    if not adapter.budgets:
        raise EdjeError(
            f"num_tokens={num_tokens}: this reranker's adapter was trained only with all of its "
            f"{adapter.num_tokens} tokens. Train one with adapter=compression_nested, or leave "
            "num_tokens out."
        )
    trained = _trained_numbers(adapter)
    usable = range(1, adapter.num_tokens + 1) if is_recorded else trained
    if not isinstance(num_tokens, int) or num_tokens not in usable:
        raise EdjeError(
            f"num_tokens={num_tokens}: this reranker has {adapter.num_tokens} tokens, trained for "
            f"the first {', '.join(map(str, trained))}. Give one of these."
        )
    return replace(
        checkpoint,
        model=checkpoint.model.with_first_tokens(num_tokens),
        fusion={count: sums for count, sums in checkpoint.fusion.items() if count == num_tokens},
        calibration={
            count: fitted for count, fitted in checkpoint.calibration.items() if count == num_tokens
        },
    )


def each_budget(checkpoint: Checkpoint) -> Iterator[tuple[int, Checkpoint]]:
    """The reranker with each of its adapter's budgets and with all tokens, in increasing order."""
    *fewer, every = _trained_numbers(checkpoint.model.adapter)
    for count in fewer:
        yield count, keep_first_tokens(checkpoint, count)
    yield every, checkpoint


def _trained_numbers(adapter: Adapter) -> list[int]:
    """Numbers of first tokens that can be used alone, ascending; the last is all of them."""
    every = adapter.num_tokens
    return [*sorted({count for count in adapter.budgets if count < every}), every]


def knows_its_backbone(backbone: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's `backbone` is an identity, not the bare name of other formats."""
    return not backbone.keys() <= {"backbone"}


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys that each of our checkpoints has besides `state_dict`."""
    target = short_name("adapter", checkpoint.adapter.target)
    packages = packages_of([target, *TARGET.findall(checkpoint.config)])
    later = {
        "text_backbone": dict(checkpoint.text_backbone),
        "started_from": dict(checkpoint.started_from),
        "notes": checkpoint.notes,
        "licence": checkpoint.licence,
    }
    return {
        "edje": {
            "language_model": checkpoint.language_model.specification(),
            "facts": asdict(checkpoint.facts),
            "adapter": {
                "target": target,
                "choices": dict(checkpoint.adapter.choices),
            },
            "residual": checkpoint.model.residual is not None,
            "backbone": checkpoint.backbone,
            "label": checkpoint.label,
            "first_stage": checkpoint.first_stage,
            "fusion": plain_sums(checkpoint.fusion),
            "calibration": plain_calibrations(checkpoint.calibration),
            "held_back": dict(checkpoint.held_back),
            **({"packages": packages} if packages else {}),  # that provide parts other than ours
            **{name: value for name, value in later.items() if value},
        },
        "edje_config": checkpoint.config,
    }


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the reranker alone (no optimiser state), by rename."""
    state = {PREFIX + name: tensor for name, tensor in checkpoint.model.state_dict().items()}
    with new_file(path) as temporary:
        torch.save({"state_dict": state, **checkpoint_fields(checkpoint)}, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The raw dictionary of one of our checkpoints, read without running pickled code.

    Raises:
        EdjeError: the file is not readable with weights only, or is not one of ours.
    """
    path = find_checkpoint(path)
    if path.name == WEIGHTS and is_saved(path.parent):
        from edje.inference.saved_folder import read_folder  # it imports this module

        return _present(read_folder(path.parent))
    is_of_a_folder = path.name == WEIGHTS and (path.parent / TOKENIZER).is_file()
    if is_of_a_folder and not is_published(path):
        raise EdjeError(
            f"checkpoint={path}: not a checkpoint of an edje reranker, or the {CONFIG} beside it "
            "is missing or damaged. Save or get the folder again."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise EdjeError(
            f"checkpoint={path}: can't be read as tensors and plain values "
            f"({type(error).__name__}). The file is truncated, or was not written by edje."
        ) from error
    missing = {"state_dict", "edje", "edje_config"} - set(content)
    if missing and is_published(path):
        raise EdjeError(
            f"checkpoint={path}: this is the published format, which has no configuration. From "
            "Python, read it with edje.Reranker.from_pretrained or edje.load_reference_checkpoint."
        )
    if missing:
        raise EdjeError(
            f"checkpoint={path}: not a checkpoint of an edje reranker: it lacks "
            f"{', '.join(sorted(missing))}. Give a run folder or a .ckpt that edje wrote."
        )
    return _present(content)


def _present(content: dict[str, Any]) -> dict[str, Any]:
    """The content with the backbone's identity in canonical form."""
    facts = content["edje"]
    return content | {"edje": facts | {"backbone": canonical_identity(facts.get("backbone", {}))}}


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild a trained reranker, in eval mode, from its checkpoint alone.

    Raises:
        EdjeError: the file is not one of our checkpoints, or its weights don't fit.
    """
    content = read_checkpoint(path)
    try:
        return _rebuilt(content, path)
    except EdjeError:
        raise
    except Exception as error:  # a damaged specification may raise anything
        raise EdjeError(
            f"checkpoint={path}: the model that it specifies can't be built "
            f"({type(error).__name__}: {first_line(error)}). The file is damaged, or edje "
            f"{edje.__version__} is too old for it."
        ) from error


def _rebuilt(content: Mapping[str, Any], path: Path) -> Checkpoint:
    fields = content["edje"]
    facts = BackboneFacts(**fields["facts"])
    adapter = AdapterSpecification(**fields["adapter"])
    package = fields.get("packages", {}).get(adapter.target)
    adapter_class(adapter.target, f"checkpoint={path}", package)
    check_sizes(fields, content["state_dict"], path)
    language_model = language_model_from_specification(fields["language_model"])
    model = build_reranker(adapter, facts, language_model, fields["residual"])
    load_weights(model, content["state_dict"], str(path))
    return Checkpoint(
        model=model.eval(),
        language_model=language_model,
        facts=facts,
        adapter=adapter,
        config=content["edje_config"],
        backbone=dict(fields["backbone"]),
        label=fields["label"],
        first_stage=dict(fields["first_stage"]),
        fusion=sums_of(fields["fusion"], model.adapter.num_tokens),
        calibration=calibrations_of(fields.get("calibration", {})),  # older files have none
        held_back=dict(fields.get("held_back", {})),  # nor these
        text_backbone=dict(fields.get("text_backbone", {})),
        started_from=dict(fields.get("started_from", {})),
        notes=str(fields.get("notes", "")),
        licence=str(fields.get("licence", "")),
    )


def check_sizes(fields: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a specification much larger than the file's tensors, before allocating memory.

    Raises:
        EdjeError: it describes more than twice the numbers that the file holds.
    """
    adapter = AdapterSpecification(**fields["adapter"])
    layers = json.loads(fields["language_model"]["config"]).get("num_hidden_layers", 0)
    held, needed = sum(tensor.numel() for tensor in state.values()), 0
    if layers <= len(state):
        with torch.device("meta"):
            words = language_model_from_specification(fields["language_model"])
            described: nn.Module = words.encoder
            if ours("adapter", adapter.target) is not None:
                facts = BackboneFacts(**fields["facts"])
                described = build_reranker(adapter, facts, words, fields["residual"])
        needed = sum(parameter.numel() for parameter in described.parameters())
    if layers > len(state) or needed > 2 * held:
        raise EdjeError(
            f"checkpoint={path}: it describes a model of {layers} layers, or of more numbers than "
            f"the {held:,} that its {len(state):,} tensors hold. The file is damaged: get it again."
        )


def load_weights(model: EDJE, state: Mapping[str, Tensor], source: str) -> None:
    """Load every weight of the reranker, after checking all names and shapes.

    Raises:
        EdjeError: names or shapes differ; the message shows the first few.
    """
    own = model.state_dict()
    given = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    problems = [f"missing {name}" for name in own if name not in given]
    problems += [f"unknown {name}" for name in given if name not in own]
    problems += [
        f"{name}: {tuple(given[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (
            f"; and {len(problems) - 4} more" if problems[4:] else ""
        )
        raise EdjeError(f"checkpoint={source}: its weights don't fit this model: {shown}.")
    model.load_state_dict(given)


def warm_start(model: EDJE, path: Path, content: Mapping[str, Any] | None = None) -> list[str]:
    """Start from another reranker's weights wherever name and shape agree.

    `content` replaces what `read_checkpoint` returns, if the file itself isn't one of ours.

    The joint encoder and the heads must agree. An adapter of another class stays fresh, and
    positions beyond the shorter table keep the model's own rows. First-stage statistics that the
    model already has describe its own data, so they stay. Returns the names of the parameters that
    stayed fresh.

    Raises:
        EdjeError: the joint encoders differ.
    """
    content = read_checkpoint(path) if content is None else content
    given = {name.removeprefix(PREFIX): tensor for name, tensor in content["state_dict"].items()}
    target, packages = content["edje"]["adapter"]["target"], content["edje"].get("packages", {})
    where = f"start.path={path}"
    if adapter_class(target, where, packages.get(target)) is not type(model.adapter):
        given = {name: tensor for name, tensor in given.items() if name.split(".")[0] != "adapter"}
    own = model.state_dict()
    if model.has_first_stage_statistics:
        own = {name: tensor for name, tensor in own.items() if not name.startswith("first_stage_")}
    fresh, taken = [], {}
    for name, tensor in own.items():
        other = given.get(name)
        if other is not None and other.shape == tensor.shape:
            taken[name] = other
        elif other is not None and name.endswith("position_embeddings.weight"):
            rows = min(len(other), len(tensor))
            taken[name] = torch.cat([other[:rows], tensor[rows:]])
        elif name.startswith(("joint.", "match.")):
            raise EdjeError(
                f"start.path={path}: its joint encoder differs at {name} "
                f"({'absent' if other is None else tuple(other.shape)}, this model has "
                f"{tuple(tensor.shape)}). Use the same joint options as that run."
            )
        else:
            fresh.append(name)
    model.load_state_dict(taken, strict=False)
    return fresh
