"""Evaluate: first-stage candidates, reranked, as recall with intervals in the run folder."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from edje.analysis.plots import save_plots
from edje.analysis.table import metrics_table
from edje.backbones.protocol import Backbone
from edje.data.source import Source, split_digest
from edje.errors import EdjeError
from edje.inference.checkpoint import Checkpoint, load_checkpoint
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.language_model import tokenize
from edje.models.edje import EDJE
from edje.records import DIRECTIONS, CandidateList, Direction
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.fusion import Standardiser, SumFusion, fit_sum
from edje.retrieval.report import candidate_columns, evaluate, query_columns
from edje.retrieval.rerank import RerankedList, rerank
from edje.tasks.collection import Collection, cached_collection
from edje.tasks.console import quiet_libraries
from edje.tasks.first_stage import embeddings, restore_first_stage
from edje.tokens.codec import Codec, make_codec

log = logging.getLogger(__name__)


class Evaluation:
    """How candidate lists are made and scored.

    Args:
        candidates: pool size k of the first stage, per query and direction.
        batch_size: pairs per call of the joint encoder.
        codec: number format of the stored (compressed) visual tokens.
        precision: of the joint encoder's matrix products; scores are float32.
        dev_every: optimiser steps between two scores on dev (0: never); the best are kept.
        shuffle_tokens: a control: every image gets another one's tokens, so that whatever the
            joint encoder reads off the images is gone.
        examples: example queries drawn in the gallery.
    """

    def __init__(
        self,
        *,
        candidates: int = 20,
        batch_size: int = 1024,
        codec: Literal["bf16", "fp16", "fp8", "int8", "int4"] = "bf16",
        precision: Literal["fp32", "bf16", "fp16"] = "bf16",
        dev_every: int = 0,
        shuffle_tokens: bool = False,
        examples: int = 8,
    ):
        self.candidates = candidates
        self.batch_size = batch_size
        self.codec = codec
        self.precision = {
            "fp32": torch.float32,
            "bf16": torch.bfloat16,
            "fp16": torch.float16,
        }[precision]
        self.dev_every = dev_every
        self.shuffle_tokens = shuffle_tokens
        self.examples = examples


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=evaluate`: score a trained reranker on `data.split`; returns t2i R@1 in percent."""
    quiet_libraries()
    if cfg.checkpoint is None:
        raise EdjeError(
            "task=evaluate needs checkpoint=<run folder or .ckpt>. See the run folders under runs/."
        )
    checkpoint = load_checkpoint(Path(cfg.checkpoint))
    return evaluate_checkpoint(cfg, folder, checkpoint, instantiate(cfg.backbone))


def evaluate_checkpoint(
    cfg: DictConfig, folder: Path, checkpoint: Checkpoint, backbone: Backbone
) -> float:
    """Rerank the evaluated split, write the run folder's results, show them.

    Raises:
        EdjeError: data, store or checkpoint don't fit each other, or the score asked for.
    """
    source: Source = instantiate(cfg.data)
    evaluation: Evaluation = instantiate(cfg.evaluation)
    check_fit(checkpoint, backbone, cfg.score)
    restore_first_stage(backbone, checkpoint.first_stage)
    collection = cached_collection(
        source,
        backbone,
        source.split,
        Path(cfg.cache_dir),
        codec_name=cfg.store_codec,
        store=None if cfg.store is None else Path(cfg.store),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint.model.to(device)
    reranked, codec, pairs_per_second = rerank_collection(
        checkpoint, backbone, collection, evaluation
    )
    if cfg.score == "sum":
        reranked = {
            direction: fusion_of(checkpoint, direction)(lists)
            for direction, lists in reranked.items()
        }
    metrics = evaluate(reranked, image_of_query(collection), seed=cfg.seed)
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
        "device": str(device),
        "dtype": str(evaluation.precision).removeprefix("torch."),
    }
    write_results(folder, metrics, reranked, collection)
    save_plots(folder, examples=evaluation.examples)
    Console().print(metrics_table(metrics))
    return metrics["t2i"]["reranked"]["recall@1"]["value"]


def check_fit(checkpoint: Checkpoint, backbone: Backbone, score: str) -> None:
    """Refuse a checkpoint whose backbone or score is another than what is asked for.

    Raises:
        EdjeError: naming what differs.
    """
    given = {key: str(value) for key, value in backbone.identity().items()}
    trained = {key: str(value) for key, value in checkpoint.backbone.items()}
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
    if score == "sum" and not checkpoint.fusion:
        raise EdjeError(
            "score=sum: the checkpoint has no fitted weight (its run held back no dev images). "
            "Train with data.dev_images > 0, or use score=joint."
        )


def compressed(model: EDJE, collection: Collection, codec: Codec, batch_size: int = 64) -> Tensor:
    """Visual tokens of every image as a store of this codec gives them back, (images, m, D)."""
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for rows in tqdm(
            collection.store_rows.split(batch_size), desc="compress", unit="batch", leave=False
        ):
            tokens = collection.store.read(rows, device=str(device))
            cells = torch.from_numpy(codec.encode(model.compress(tokens).float().cpu()))
            parts.append(codec.decode(cells, dtype=torch.float32, device="cpu"))
    return torch.cat(parts)


def rerank_collection(
    checkpoint: Checkpoint,
    backbone: Backbone,
    collection: Collection,
    evaluation: Evaluation,
    *,
    directions: Sequence[Direction] = DIRECTIONS,
    stride: int = 1,
) -> tuple[dict[Direction, RerankedList], Codec, float]:
    """Candidates of both directions with their joint scores, the codec, and pairs per second.

    The speed is the scorer's alone, its gathering of tokens included. A `stride` above 1 reranks
    every so many-th query only, against the whole gallery.
    """
    model = checkpoint.model
    codec = make_codec(
        evaluation.codec,
        int(model.adapter.num_tokens),  # type: ignore[arg-type]  # Module hides its type
        model.joint.width,
    )
    visual = compressed(model, collection, codec)
    if evaluation.shuffle_tokens:
        visual = visual[torch.randperm(len(visual), generator=torch.Generator().manual_seed(0))]
    text = tokenize(checkpoint.language_model.tokenizer, collection.texts)
    scorer = StoredTokenScorer(model, ScoringSet(text, visual), evaluation.precision)
    images, captions = embeddings(backbone, collection)
    reranked: dict[Direction, RerankedList] = {}
    seconds = 0.0
    for direction in directions:
        lists = candidate_lists(
            images, captions, collection.image_of_caption, direction, evaluation.candidates
        )
        lists = every(stride, lists)
        with tqdm(total=lists.candidates.numel(), desc=f"rerank {direction}", unit="pair") as bar:
            started = time.perf_counter()
            reranked[direction] = rerank(
                lists, scorer, evaluation.batch_size, bar.update, key=scorer.lengths
            )
            seconds += time.perf_counter() - started
    pairs = sum(lists.joint.numel() for lists in reranked.values())
    return reranked, codec, pairs / seconds


def every(stride: int, lists: CandidateList) -> CandidateList:
    """The lists of queries 0, stride, 2·stride, …"""
    return CandidateList(
        lists.direction,
        lists.candidates[::stride],
        lists.scores[::stride],
        lists.relevant[::stride],
        lists.num_relevant[::stride],
    )


def image_of_query(collection: Collection) -> dict[Direction, Tensor]:
    """Image row of every query, by which intervals are resampled."""
    return {
        "t2i": collection.image_of_caption,
        "i2t": torch.arange(len(collection.split.images)),
    }


def fusion_weights(dev: Mapping[Direction, RerankedList]) -> dict[str, float]:
    """score=sum fitted on dev, as the flat numbers that a checkpoint keeps."""
    weights: dict[str, float] = {}
    for direction, lists in dev.items():
        fusion = fit_sum(lists)
        weights |= {
            f"{direction}.weight": fusion.weight,
            f"{direction}.first.mean": fusion.first.mean,
            f"{direction}.first.std": fusion.first.std,
            f"{direction}.joint.mean": fusion.joint.mean,
            f"{direction}.joint.std": fusion.joint.std,
        }
    return weights


def fusion_of(checkpoint: Checkpoint, direction: Direction) -> SumFusion:
    """The fitted fusion of one direction."""
    numbers = checkpoint.fusion
    return SumFusion(
        numbers[f"{direction}.weight"],
        Standardiser(numbers[f"{direction}.first.mean"], numbers[f"{direction}.first.std"]),
        Standardiser(numbers[f"{direction}.joint.mean"], numbers[f"{direction}.joint.std"]),
    )


def write_results(
    folder: Path,
    metrics: Mapping[str, Any],
    reranked: Mapping[Direction, RerankedList],
    collection: Collection,
) -> None:
    """metrics.json, candidates.parquet, queries.parquet and images.parquet of a run folder."""
    split = collection.split
    image_ids = [image.image_id for image in split.images]
    caption_ids = [caption.caption_id for caption in split.captions]
    owners = [caption.image_id for caption in split.captions]
    sides = {
        "t2i": (caption_ids, image_ids, owners),
        "i2t": (image_ids, caption_ids, image_ids),
    }
    candidates, queries = [], []
    for direction, lists in reranked.items():
        query_ids, candidate_ids, images = sides[direction]
        candidates.append(pd.DataFrame(candidate_columns(lists, query_ids, candidate_ids)))
        queries.append(pd.DataFrame(query_columns(lists, query_ids, images)))
    texts = dict(zip(caption_ids, collection.texts, strict=True))
    table = pd.concat(queries, ignore_index=True)
    table["text"] = table["query_id"].map(texts)
    pd.concat(candidates, ignore_index=True).to_parquet(folder / "candidates.parquet")
    table.to_parquet(folder / "queries.parquet")
    paths = [str(Path(image.path).resolve()) for image in split.images]
    pd.DataFrame({"image_id": image_ids, "path": paths}).to_parquet(folder / "images.parquet")
    if split.skipped:
        (folder / "skipped_images.json").write_text(json.dumps(list(split.skipped), indent=1))
    partial = folder / "metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=2))
    partial.replace(folder / "metrics.json")
