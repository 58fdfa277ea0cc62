"""Training a prepared reranker on its feed, into a folder of checkpoints."""

import gc
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.inference.checkpoint import (
    Checkpoint,
    checkpoint_fields,
    load_checkpoint,
    save_checkpoint,
)
from edje.parallel.launch import other_ranks
from edje.pipeline.calibrating import fitted_calibrations
from edje.pipeline.collection import Collection
from edje.pipeline.continuing import SETTINGS, check_continued, settings_of
from edje.pipeline.devices import make_current, similarity_device
from edje.pipeline.feed import Feed
from edje.pipeline.first_stage import first_stage_lists, first_stage_state
from edje.pipeline.first_stage_statistics import fix_statistics
from edje.pipeline.fitted_sum import fitted_sums
from edje.pipeline.preparation import Prepared, Training, last_checkpoint
from edje.pipeline.recorded import recorded
from edje.pipeline.scoring import Scoring, rerank_collection
from edje.pipeline.shares import of_queries
from edje.pipeline.token_cache import Cache
from edje.pipeline.trainer import make_trainer
from edje.records import CandidateList
from edje.retrieval.metrics import first_hit_ranks
from edje.tokens.codec import CodecName
from edje.training.callbacks import ResumableCheckpoint, StepProgress
from edje.training.data_wait import DataWait
from edje.training.development_recall import DevelopmentRecall
from edje.training.gradient_checkpointing import keep_all
from edje.training.one_precision import OnePrecision
from edje.training.one_training_set import OneTrainingSet
from edje.training.reranker_module import RerankerModule
from edje.training.step_figures import StepFigures
from edje.training.throughput import Throughput

DEV_STRIDE = 3  # while training, dev is scored on every third caption
DEV_FIGURE = "dev/t2i_recall@1"
SHOWN = ("train/accuracy", "train/loss", DEV_FIGURE)  # shown beside the progress bar


def train_reranker(
    training: Training,
    prepared: Prepared,
    feed: Feed,
    backbone: Backbone,
    cache: Cache,
    folder: Path,
) -> Checkpoint | None:
    """Train, or continue from checkpoints/last.ckpt in the folder; the last step is kept there.

    Returns the reranker after the last step, for `finish`. On several devices only rank 0 returns
    it, the other ranks return None.

    Raises:
        EdjeError: another rank failed, nothing can be written, or the run to continue has another
            backbone or adapter, or is finished with other settings.
        TrainingInterrupted: a signal ended the training; the last step is kept.
    """
    new = replace(
        prepared.checkpoint,
        first_stage=first_stage_state(backbone),
        config=recorded(prepared.checkpoint, training, backbone, cache.storage),
    )
    last = last_checkpoint(folder)
    if last is not None:
        check_continued(last, training, new)
    fit_start(training, new, feed, cache, resumed=last is not None)
    module = RerankerModule(
        new.model,
        training.objectives,
        training.negatives,
        training.optimisation,
        new.language_model.tokenizer.mask_token_id,
        steps_per_epoch(feed.num_pairs, feed.datamodule.batch_size, training.trainer),
        {**checkpoint_fields(new), SETTINGS: settings_of(training)},
        None if prepared.teacher is None else prepared.teacher.model,
        training.seed,
    )
    callbacks = callbacks_of(training, new, feed, backbone, cache, folder / "checkpoints")
    trainer = make_trainer(training.trainer, folder, prepared.loggers, callbacks)
    with other_ranks(trainer, folder):
        trainer.fit(module, feed.datamodule, ckpt_path=last, weights_only=True)
    return new if trainer.is_global_zero else None


def fit_start(
    training: Training, new: Checkpoint, feed: Feed, cache: Cache, *, resumed: bool
) -> None:
    """Set what a reranker takes from its training set before the first step.

    In a resumed training, the weights come from its last checkpoint instead.
    """
    if feed.first_stage is not None:
        assert feed.known is not None
        split = feed.known.split
        at = cache.split_folder(split.dataset, split.name)
        fix_statistics(new.model, *feed.first_stage, at, similarity_device(cache.device))
    if feed.train is not None and not resumed:
        training.start.fit(new, feed.train, training.seed, cache.device)


def steps_per_epoch(num_samples: int, batch_size: int, trainer: Mapping[str, Any]) -> int:
    """Optimiser steps that a single rank needs to read as many pairs as there are samples.

    With `loader=neighbours` anchors and neighbours count alike, so the sampler's epoch, in which
    every caption is an anchor once, is longer.
    """
    micro_batches: int = trainer.get("accumulate_grad_batches", 1)
    return max(num_samples // batch_size // micro_batches, 1)


def callbacks_of(
    training: Training,
    new: Checkpoint,
    feed: Feed,
    backbone: Backbone,
    cache: Cache,
    checkpoints: Path,
) -> list[L.Callback]:
    """Callbacks: logs, dev scores if requested, resumable checkpoints, and the progress bar."""
    wait, scored = DataWait(), []
    if feed.dev is not None and training.scoring.dev_every:
        codec, best = cache.storage.compressed_codec, checkpoints / "best.ckpt"
        scoring = training.scoring.unshuffled()
        scored = [development_score(new, backbone, feed.dev, scoring, codec, best)]
    return [
        OnePrecision(),
        OneTrainingSet(feed.facts),
        Throughput(wait),
        StepFigures(training.optimisation.lr),
        *scored,
        ResumableCheckpoint(checkpoints, training.checkpoint_every, training.resume_command),
        *progress(training.trainer),
        wait,
    ]


def progress(trainer: Mapping[str, Any]) -> list[L.Callback]:
    """The progress bar of a training, unless the trainer's options disable it."""
    return [] if trainer.get("enable_progress_bar") is False else [StepProgress(SHOWN)]


def development_score(
    current: Checkpoint,
    backbone: Backbone,
    dev: Collection,
    scoring: Scoring,
    codec: CodecName,
    path: Path,
) -> DevelopmentRecall:
    """A callback that keeps the weights with the best t2i recall@1 on dev."""
    rows = torch.arange(0, len(dev.texts), DEV_STRIDE)

    @cache
    def first() -> CandidateList:  # the same each time
        device = similarity_device(next(current.model.parameters()).device)
        (every,) = first_stage_lists(backbone, dev, scoring.candidates, ("t2i",), device=device)
        return of_queries(every, rows)

    def ranks() -> Tensor:
        reranked, *_ = rerank_collection(
            current,
            backbone,
            dev,
            scoring,
            codec,
            directions=("t2i",),
            first=[first()],
            queries={"t2i": rows},
        )
        lists = reranked["t2i"]
        return first_hit_ranks(lists.final, lists.first.relevant)

    def keep() -> None:
        save_checkpoint(current, path)

    return DevelopmentRecall(ranks, keep, scoring.dev_every, DEV_FIGURE, scoring.patience)


def finish(
    training: Training,
    trained: Checkpoint,
    backbone: Backbone,
    dev: Collection | None,
    cache: Cache,
    folder: Path,
) -> Checkpoint:
    """Write checkpoints/model.ckpt: the best weights on dev, or else the last.

    On dev, the weights of score=sum are fitted, and for every score the calibration. The caller
    should release the feed first, because it is gigabytes. `pretrained/` is written by the command
    line only, with the results of its evaluation; `Reranker.save_pretrained` writes such a folder.
    """
    gc.collect()  # a Trainer is in reference cycles and holds the training set
    checkpoints = folder / "checkpoints"
    best = checkpoints / "best.ckpt"
    has_best = best.is_file() and training.scoring.dev_every > 0
    if has_best:
        trained = load_checkpoint(best)
    keep_all(trained.model)
    trained.model.eval()
    if dev is not None:
        trained.model.to(make_current(cache.devices[0]))  # Lightning moved it back to the CPU
        trained = fitted_on(dev, training, trained, backbone, cache)
        trained.model.cpu()
    save_checkpoint(trained, checkpoints / "model.ckpt")
    if has_best:
        shutil.copyfile(checkpoints / "model.ckpt", best)
    return trained


def fitted_on(
    dev: Collection, training: Training, trained: Checkpoint, backbone: Backbone, cache: Cache
) -> Checkpoint:
    """Fit what is fitted after the last step: the weights of score=sum, and the calibration."""
    scoring, codec = training.scoring.unshuffled(), cache.storage.compressed_codec
    if training.score == "sum":
        before = training.start.sums
        sums = fitted_sums(trained, backbone, dev, scoring, codec, cache.devices, before)
        trained = replace(trained, fusion=sums)
    calibration = fitted_calibrations(
        trained, backbone, dev, scoring, codec, training.score, training.seed, cache.devices
    )
    return replace(trained, calibration=calibration)
