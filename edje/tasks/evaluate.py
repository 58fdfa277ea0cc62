"""Evaluate: first-stage candidates, reranked, as recall with intervals in the run folder."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from edje.analysis.plots import save_plots
from edje.analysis.table import metrics_table
from edje.backbones.protocol import Backbone
from edje.config.building import backbone_from
from edje.data.datamodules.cached_datamodule import caption_keys
from edje.data.sources.source import Source, split_digest
from edje.errors import EdjeError
from edje.identity import canonical_identity
from edje.inference.checkpoint import Checkpoint, keep_first_tokens
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.devices import devices_of, make_current
from edje.pipeline.first_stage import restore_first_stage
from edje.pipeline.fitted_sum import dev_to_fit_on, fitted_sums
from edje.pipeline.results import write_results
from edje.pipeline.scoring import Evaluation, fusion_of, rerank_collection
from edje.pipeline.trained import load_trained
from edje.quiet import quiet_libraries
from edje.records import Direction
from edje.retrieval.report import evaluate
from edje.tasks.compress import compressed_collection
from edje.tasks.console import show

log = logging.getLogger(__name__)
MOST_TIES = 0.001  # share of candidates with another's score, beyond which a log line says so


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=evaluate`: score a trained reranker on `data.split`; returns t2i R@1 in percent."""
    quiet_libraries()
    if cfg.checkpoint is None:
        raise EdjeError(
            "task=evaluate needs checkpoint=<run folder, .ckpt, or file or hub name of a published "
            "checkpoint>. See the run folders under runs/."
        )
    backbone: Backbone = backbone_from(cfg.backbone)
    return evaluate_checkpoint(cfg, folder, load_trained(cfg, "checkpoint", backbone), backbone)


def evaluate_checkpoint(
    cfg: DictConfig, folder: Path, checkpoint: Checkpoint, backbone: Backbone
) -> float:
    """Rerank the evaluated split, write the run folder's results, show them.

    Raises:
        EdjeError: data, store or checkpoint don't fit each other, or the score asked for.
    """
    devices = devices_of(cfg.trainer)
    source: Source = instantiate(cfg.data)
    evaluation: Evaluation = instantiate(cfg.evaluation)
    if evaluation.num_tokens is not None:
        keep_first_tokens(checkpoint, evaluation.num_tokens)
    check_fit(checkpoint, backbone, cfg.score)
    dev = None
    if cfg.score == "sum" and not checkpoint.fusion:
        dev = dev_to_fit_on(cfg, source, backbone, checkpoint)
    restore_first_stage(backbone, checkpoint.first_stage)
    collection = compressed_collection(
        cfg, source, backbone, checkpoint, evaluation
    ) or cached_collection(cfg, source, backbone, source.split, store=cfg.store)
    checkpoint.model.to(make_current(devices[0]))
    reranked, codec, pairs_per_second, precision = rerank_collection(
        checkpoint, backbone, collection, evaluation, devices=devices
    )
    if dev is not None:
        honest = copy.copy(evaluation)
        honest.shuffle_tokens = False  # as at the end of a training run
        sums = fitted_sums(checkpoint, backbone, dev, honest, devices)
        checkpoint = replace(checkpoint, fusion=sums)
    if cfg.score == "sum":
        reranked = {
            direction: fusion_of(checkpoint, direction)(lists)
            for direction, lists in reranked.items()
        }
    metrics = evaluate(
        reranked,
        image_of_query(collection),
        kinds={"i2t": caption_keys(collection.texts)},
        seed=cfg.seed,
    )
    metrics |= {
        "dataset": source.name,
        "split": source.split,
        "split_digest": split_digest(collection.split),
        "seed": cfg.seed,
        "score": cfg.score,
        "label": checkpoint.label,
        "shuffled_tokens": evaluation.shuffle_tokens,
        "num_images": len(collection.split.images),
        "num_captions": len(collection.split.captions),
        "num_skipped_images": len(collection.split.skipped),
        "storage_bytes_per_image": codec.cell_bytes,
        "scored_pairs_per_second": pairs_per_second,
        "device": devices[0].type,
        "dtype": str(precision).removeprefix("torch."),
    }
    tell_of_ties(metrics["share_of_ties"])
    write_results(folder, metrics, reranked, collection)
    save_plots(folder, examples=evaluation.examples)
    show(metrics_table(metrics))
    return metrics["t2i"]["reranked"]["recall@1"]["value"]


def tell_of_ties(shares: Mapping[str, float]) -> None:
    """Log the directions in which more candidates tie than a number format should make."""
    for direction, share in shares.items():
        if share > MOST_TIES:
            log.warning(
                "%s: %.2f%% of the candidates tie with another of their list, expected at most "
                "%.1f%%. Try a finer evaluation.precision; if that doesn't help, the model gives "
                "everything the same score.",
                direction,
                100 * share,
                100 * MOST_TIES,
            )


def check_fit(checkpoint: Checkpoint, backbone: Backbone, score: str) -> None:
    """Refuse a checkpoint whose backbone or score is another than what is asked for.

    Raises:
        EdjeError: naming what differs.
    """
    given = {key: str(value) for key, value in canonical_identity(backbone.identity()).items()}
    trained = {key: str(value) for key, value in canonical_identity(checkpoint.backbone).items()}
    differing = [
        f"{key}: trained on {trained.get(key)}, given {given.get(key)}"
        for key in sorted(given.keys() | trained.keys())
        if given.get(key) != trained.get(key)
    ]
    if differing:
        raise EdjeError(
            f"the checkpoint was trained on another backbone's tokens ({'; '.join(differing)}). "
            "Evaluate with the backbone of its run."
        )
    residual = checkpoint.model.residual is not None
    if residual and score == "joint":
        raise EdjeError(
            "score=joint: the checkpoint was trained with score=residual and can't score without "
            "the first-stage score. Use score=residual or score=sum."
        )
    if score == "residual" and not residual:
        raise EdjeError(
            "score=residual: the checkpoint was trained without a residual of the first-stage "
            "score. Use score=joint or score=sum, or train with score=residual."
        )


def image_of_query(collection: Collection) -> dict[Direction, Tensor]:
    """Image row of every query, by which intervals are resampled."""
    return {
        "t2i": collection.image_of_caption,
        "i2t": torch.arange(len(collection.split.images)),
    }
