"""A training without its data: its options, and the rerankers that are built and loaded first."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.config.problems import nothing_held_back, untrained_tokens
from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.data.mixture.pretrain import PretrainSource, trained_on
from edje.data.sources.source import Source
from edje.errors import EdjeError, first_line
from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
    keep_first_tokens,
    load_checkpoint,
)
from edje.inference.run_choices import LOADER, Score, facts_of
from edje.language_model import LanguageModel
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import Objective
from edje.pipeline.first_stage import FittedProjections, reason_to_fit
from edje.pipeline.scoring import Scoring
from edje.pipeline.start import FreshStart, Start
from edje.pipeline.trained import Published, check_named, load_trained
from edje.pipeline.trainer import check_trainer, run_loggers, trainer_devices
from edje.training.compilation import compile_layers
from edje.training.gradient_checkpointing import checkpoint_layers
from edje.training.optimisation import Optimisation

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a reranker is built and trained.

    Args:
        language_model: builds the joint encoder's language model; fresh weights depend only on
            the seed.
        adapter: the adapter and its choices.
        objectives: the terms of the loss by name.
        negatives: the miner of hard negatives inside a batch.
        optimisation: the optimiser and its schedule.
        trainer: arguments of lightning.Trainer; `max_steps` is required. Arguments that a run
            can't support are refused.
        loading: how batches are made from a token store.
        scoring: how dev is scored while training.
        score: joint; residual shows the first-stage score to the match head; sum fits a weight
            for both scores on dev.
        start: the initial weights.
        teacher: the reranker to distil from.
        miner: a reranker that selects the hardest images as neighbours for batches.
        seed: for weights, order, masks and dropout.
        checkpoint_every: optimiser steps between resumable checkpoints.
        compile_training: a backend of torch.compile.
        gradient_checkpointing: recompute layers in the backward pass.
        loggers: functions of save_dir, name and version that build Lightning loggers.
        config: YAML to keep in the checkpoint, which is completed by the choices that scoring
            depends on; with `backbone`, how that is built, for one that `load_backbone` didn't
            build.
        resume_command: how to continue an interrupted training, for the message.
        published: facts about a published checkpoint, if one is named.
    """

    language_model: Callable[[], LanguageModel]
    adapter: AdapterSpecification
    objectives: Mapping[str, Objective]
    optimisation: Optimisation
    trainer: Mapping[str, Any]
    negatives: HardNegatives
    loading: CachedLoading = field(default_factory=CachedLoading)
    scoring: Scoring = field(default_factory=Scoring)
    score: Score = "joint"
    start: Start = field(default_factory=FreshStart)
    teacher: str | None = None
    miner: str | None = None
    seed: int = 0
    checkpoint_every: int = 200
    compile_training: str | None = None
    gradient_checkpointing: bool = False
    loggers: Sequence[Callable[..., Logger]] = ()
    config: str = "{}"
    resume_command: str = "the same call"
    published: Published = field(default_factory=Published)

    def __post_init__(self) -> None:
        check_trainer(self.trainer)
        if self.checkpoint_every < 1:
            raise EdjeError(
                f"checkpoint_every={self.checkpoint_every}: expected steps, at least 1."
            )
        if not any(term.weight for term in self.objectives.values()):
            raise EdjeError(
                "objective: no term has a weight above 0, so nothing would be learned. Give one, "
                "for example objective.matching.weight=1."
            )
        try:
            values = yaml.load(self.config, Loader=LOADER)
        except yaml.YAMLError as error:
            said = first_line(error, lines=3)
            raise EdjeError(
                f"config: it isn't valid YAML ({said}). Give values by key, or leave it out."
            ) from error
        if values is not None and not isinstance(values, Mapping):
            raise EdjeError(
                f"config: got a {type(values).__name__}, expected YAML with values by key. Leave "
                "it out for a run without a configuration."
            )
        warmup, steps = self.optimisation.warmup_steps, self.trainer["max_steps"]
        if warmup >= steps:
            log.warning(
                "optim.warmup_steps=%d: with trainer.max_steps=%d the training ends before the "
                "learning rate reaches optim.lr. Lower optim.warmup_steps, or train longer.",
                warmup,
                steps,
            )

    @property
    def distils(self) -> bool:
        """Whether an objective needs a teacher."""
        return any("teacher" in term.needs for term in self.objectives.values())


@dataclass(frozen=True)
class Prepared:
    """A new reranker, the trained rerankers that it learns from, and the loggers."""

    checkpoint: Checkpoint
    teacher: Checkpoint | None = None
    miner: Checkpoint | None = None
    loggers: Sequence[Logger] = ()


def prepare(training: Training, backbone: Backbone, source: Source, folder: Path) -> Prepared:
    """Build the reranker and load those that are named, with all checks before the training.

    The log starts in the folder.

    Raises:
        EdjeError: options, checkpoints, backbone or this machine don't fit each other.
    """
    if training.miner is not None and not training.loading.neighbours:
        raise EdjeError(
            f"miner={training.miner}: loader.neighbours=0 uses none of the images it would mine. "
            "Use loader=neighbours, or leave miner out."
        )
    named = {"start.path": training.start.path, "miner": training.miner}
    if training.distils:
        named["teacher"] = training.teacher
    check_named(named, backbone)
    loggers = run_loggers(training.loggers, folder)
    torch.manual_seed(training.seed)  # fresh weights are a function of the seed
    new = new_checkpoint(training, backbone, source)
    last = last_checkpoint(folder)
    if last is None:
        check_new(training, new, source)
    started_from = training.start.load(new, backbone, training.published)
    if last is None:
        projections = training.start.projections(backbone)
    else:
        projections = begun_with(last, backbone)
    new = replace(new, first_stage=projections, started_from=started_from or {})
    if training.gradient_checkpointing:
        checkpoint_layers(new.model)
    if training.compile_training is not None:
        device = trainer_devices(training.trainer)[0]
        compile_layers(new.model, training.compile_training, device)
    teacher, miner = frozen_teacher(training, new, backbone), None
    if training.miner is not None:
        miner = load_trained(training.miner, "miner", lambda: backbone, training.published)
    return Prepared(new, teacher, miner, loggers)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which a training in this folder continues; None for a new one."""
    last = folder / "checkpoints" / "last.ckpt"
    return last if last.is_file() else None


def begun_with(last: Path, backbone: Backbone) -> dict[str, Tensor]:
    """The fitted projections of a training that continues; empty if its backbone is another one.

    Raises:
        EdjeError: its last checkpoint can't be read.
    """
    if not isinstance(backbone, FittedProjections):
        return {}
    trained = load_checkpoint(last)
    text = trained.text_backbone or backbone.text_identity()  # an older one doesn't say it
    is_other = reason_to_fit(replace(trained, text_backbone=text), backbone)
    return {} if is_other else trained.first_stage


def check_new(training: Training, new: Checkpoint, source: Source) -> None:
    """Refuse a training that would end with tokens untrained or a score without its fit.

    One that an earlier version began may continue.

    Raises:
        EdjeError: the adapter's budgets don't end with all tokens, or lack `scoring.num_tokens`;
            or the source holds no images back for `score` or `scoring.dev_every`.
    """
    adapter = new.model.adapter
    problems = [*untrained_tokens(adapter.budgets, adapter.num_tokens)]
    if not source.dev_images:
        mixture, every = isinstance(source, PretrainSource), training.scoring.dev_every
        problems += nothing_held_back(training.score, every, is_mixture=mixture)
    if problems:
        raise EdjeError(" ".join(map(str, problems)))
    if training.scoring.num_tokens is not None:
        keep_first_tokens(new, training.scoring.num_tokens)


def new_checkpoint(training: Training, backbone: Backbone, source: Source) -> Checkpoint:
    """A reranker with fresh weights, and everything that its checkpoints will contain.

    Raises:
        EdjeError: the language model or the adapter doesn't fit, or an objective needs a mask token
            that the tokenizer hasn't.
    """
    facts = facts_of(backbone)
    language_model = training.language_model()
    masking = [name for name, term in training.objectives.items() if "masked" in term.needs]
    if masking and language_model.tokenizer.mask_token is None:
        raise EdjeError(
            f"objective.{masking[0]} replaces words by a mask token, and joint's tokenizer has no "
            "mask_token. Use another language model, or leave it out: objective=[matching,…]."
        )
    return Checkpoint(
        model=build_reranker(training.adapter, facts, language_model, training.score == "residual"),
        language_model=language_model,
        facts=facts,
        adapter=training.adapter,
        config=training.config,
        backbone=backbone.identity(),
        label=f"{trained_on(source)} train",
        first_stage={},
        fusion={},
        held_back={"dev_images": source.dev_images, "dev_seed": source.dev_seed},
        text_backbone=backbone.text_identity() if isinstance(backbone, FittedProjections) else {},
    )


def frozen_teacher(
    training: Training, student: Checkpoint, backbone: Backbone
) -> Checkpoint | None:
    """The teacher to distil from; None if no objective needs one.

    Raises:
        EdjeError: there is no teacher, or it has other tokens or another vocabulary.
    """
    if not training.distils:
        return None
    if training.teacher is None:
        raise EdjeError(
            "objective.distillation needs teacher=<run folder or .ckpt of a trained reranker>. "
            "Give one, or leave distillation out: objective=[matching,masked_language,…]."
        )
    teacher = load_trained(training.teacher, "teacher", lambda: backbone, training.published)
    words = [one.language_model.tokenizer.get_vocab() for one in (teacher, student)]
    if words[0] != words[1]:
        raise EdjeError(
            f"teacher={training.teacher}: its tokenizer differs from joint's, so it can't read "
            "this run's captions. Use a language model with the same tokenizer."
        )
    if teacher.model.residual is not None:
        log.info("the teacher's match head reads the first-stage score")
    return teacher
