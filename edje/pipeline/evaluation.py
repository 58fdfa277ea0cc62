"""Evaluation: rerank the first stage's candidates; recall with intervals."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edje.backbones.protocol import Backbone
from edje.data.datamodules.cached_datamodule import caption_keys
from edje.data.sources.source import Source, split_digest
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, keep_first_tokens, load_checkpoint
from edje.inference.reranker import Reranker
from edje.inference.run_choices import Score, backbone_of, check_identity
from edje.pipeline.calibrating import measured_calibrations
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.compressed import compressed_collection
from edje.pipeline.devices import make_current
from edje.pipeline.first_stage import restore_first_stage
from edje.pipeline.fitted_sum import dev_to_fit_on, fitted_sums
from edje.pipeline.recorded import of_evaluation
from edje.pipeline.scoring import Scoring, fusion_of, rerank_collection
from edje.pipeline.token_cache import Cache
from edje.ranges import check_path
from edje.records import Direction
from edje.retrieval.report import retrieval_metrics
from edje.retrieval.rerank import RerankedList
from edje.tokens.store import REBUILD

log = logging.getLogger(__name__)
MOST_TIES = 0.001  # share of candidates with another's score; above it there is a warning


@dataclass(frozen=True)
class Evaluated:
    """The result of an evaluation: the content of metrics.json, all scores, and what was scored."""

    metrics: dict[str, Any]
    reranked: dict[Direction, RerankedList]
    collection: Collection


def evaluate(
    checkpoint: Checkpoint | Reranker | str | Path,
    source: Source,
    *,
    backbone: Backbone | None = None,
    cache: Cache | None = None,
    scoring: Scoring | None = None,
    score: Score | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """Rerank a source's evaluated split: recall with intervals, the content of metrics.json.

    Whatever isn't cached is encoded.

    Args:
        checkpoint: a trained reranker, or its run folder or .ckpt.
        source: the source whose `split` is evaluated.
        backbone: the one that it was trained with; by default the reranker's, or built from its
            run's configuration.
        cache: where stores are; by default the folder `cache`.
        scoring: candidates, number format and similar options.
        score: joint, residual or sum; by default residual if it was trained so, else joint.
        seed: for resampling the intervals.
        store: a token store (folder or URL) to read instead of the cache's.
        folder: a run folder to write, as `edje.analysis` reads it: the lists with all scores, the
            metrics and the configuration. An earlier evaluation there is replaced if it had the
            same configuration, weights and split (name, ids and captions); `seed` may differ.

    Raises:
        EdjeError: data, store, backbone, checkpoint and score don't fit each other, or the folder
            can't be written or holds another run.
    """
    if folder is not None:
        check_path("folder", folder)
    if isinstance(checkpoint, Reranker):
        backbone = checkpoint.picture_encoder.backbone if backbone is None else backbone
        checkpoint = checkpoint.checkpoint
    elif not isinstance(checkpoint, Checkpoint):
        check_path("checkpoint", checkpoint)
        checkpoint = load_checkpoint(Path(checkpoint))
    if backbone is None:
        backbone = backbone_of(checkpoint)
    if score is None:
        score = "joint" if checkpoint.model.residual is None else "residual"
    cache = Cache(Path("cache")) if cache is None else cache
    scoring = Scoring() if scoring is None else scoring
    chosen = (checkpoint, source, backbone, cache, scoring, score, seed)
    if folder is None:
        return evaluated(*chosen, store=store).metrics
    from edje.pipeline.results import prepare_folder, write_run  # it needs pandas

    config = of_evaluation(checkpoint, scoring, score, source)
    prepare_folder(Path(folder), config)
    result = evaluated(*chosen, store=store)
    write_run(Path(folder), config, result.metrics, result.reranked, result.collection)
    return result.metrics


def evaluated(
    checkpoint: Checkpoint,
    source: Source,
    backbone: Backbone,
    cache: Cache,
    scoring: Scoring,
    score: Score,
    seed: int,
    *,
    store: str | Path | None = None,
    rebuild: Callable[[], Backbone] | None = None,
    rebuild_command: str = REBUILD,
) -> Evaluated:
    """Rerank a source's evaluated split, with every score.

    `rebuild` is as in `cached_collection`; `rebuild_command` is the command that messages about a
    compressed store suggest.

    Raises:
        EdjeError: data, store, backbone, checkpoint and score don't fit each other.
    """
    if scoring.num_tokens is not None:
        checkpoint = keep_first_tokens(checkpoint, scoring.num_tokens)
    check_fit(checkpoint, backbone, score)
    dev = None
    if score == "sum" and not checkpoint.fusion:
        dev = dev_to_fit_on(cache, source, backbone, checkpoint)
    restore_first_stage(backbone, checkpoint.first_stage)
    collection = compressed_collection(
        cache, source, backbone, checkpoint, store=store, rebuild=rebuild_command
    ) or cached_collection(cache, source, backbone, source.split, store=store, rebuild=rebuild)
    devices, codec_name = cache.devices, cache.storage.compressed_codec
    checkpoint.model.to(make_current(devices[0]))
    reranked, codec, pairs_per_second, precision = rerank_collection(
        checkpoint, backbone, collection, scoring, codec_name, devices=devices
    )
    if dev is not None:
        honest = scoring.unshuffled()  # as at the end of a training
        sums = fitted_sums(checkpoint, backbone, dev, honest, codec_name, devices)
        checkpoint = replace(checkpoint, fusion=sums)
    if score == "sum":
        reranked = {
            direction: fusion_of(checkpoint, direction)(lists)
            for direction, lists in reranked.items()
        }
    metrics = retrieval_metrics(
        reranked,
        image_of_query(collection),
        kinds={"i2t": caption_keys(collection.texts)},
        seed=seed,
    )
    metrics |= {
        "dataset": source.name,
        "split": source.split,
        "split_digest": split_digest(collection.split),
        "seed": seed,
        "score": score,
        "label": checkpoint.label,
        "shuffled_tokens": scoring.shuffle_tokens,
        "num_images": len(collection.split.images),
        "num_captions": len(collection.split.captions),
        "num_skipped_images": len(collection.split.skipped),
        "storage_bytes_per_image": codec.cell_bytes,
        "scored_pairs_per_second": pairs_per_second,
        "device": devices[0].type,
        "dtype": str(precision).removeprefix("torch."),
    }
    warn_of_ties(metrics["share_of_ties"], precision)
    calibration = measured_calibrations(
        checkpoint, backbone, collection, scoring, codec_name, score, seed, devices
    )
    if calibration:
        metrics["calibration"] = calibration
    return Evaluated(metrics, reranked, collection)


def warn_of_ties(shares: Mapping[str, float], precision: torch.dtype) -> None:
    """Warn of directions with more ties between candidates than a number format should cause."""
    equal = "the model gives them the same score."
    advice = f"Try a finer scoring.precision; if that doesn't help, {equal}"
    if precision == torch.float32:
        advice = f"Scored in float32, so {equal}"
    for direction, share in shares.items():
        if share > MOST_TIES:
            log.warning(
                "%s: %.2f%% of the candidates tie with another of their list, expected at most "
                "%.1f%%. %s",
                direction,
                100 * share,
                100 * MOST_TIES,
                advice,
            )


def check_fit(checkpoint: Checkpoint, backbone: Backbone, score: str) -> None:
    """Refuse a checkpoint that doesn't fit this backbone or score.

    Raises:
        EdjeError: it doesn't; the message says what differs.
    """
    check_identity(checkpoint, backbone)
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
    """Image row of every query; the intervals are resampled by image."""
    return {
        "t2i": collection.image_of_caption,
        "i2t": torch.arange(len(collection.split.images)),
    }
