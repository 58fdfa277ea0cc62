"""The results in a run folder: metrics, all scores, and the data for galleries."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from edje.durable import new_file, writing_to
from edje.errors import EdjeError
from edje.pipeline.collection import Collection
from edje.records import Direction
from edje.retrieval.report import candidate_columns, query_columns
from edje.retrieval.rerank import RerankedList

CONFIG = "config.yaml"
METRICS = "metrics.json"
SKIPPED = "skipped_images.json"


def prepare_folder(folder: Path, config: str) -> None:
    """Make the folder of an evaluation, unless it exists, before anything is scored.

    Raises:
        EdjeError: the folder can't be written, or it holds another run's configuration or results.
    """
    path = folder / CONFIG
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if path.is_file():
            same = path.read_bytes() == config.encode()
        else:
            same = not (folder / METRICS).is_file()
    if not same:
        raise EdjeError(
            f"folder={folder}: it holds a run of another configuration, reranker or data (its "
            f"{CONFIG if path.is_file() else METRICS}). Give this evaluation a folder of its own."
        )


def write_run(
    folder: Path,
    config: str,
    metrics: Mapping[str, Any],
    reranked: Mapping[Direction, RerankedList],
    collection: Collection,
) -> None:
    """Fill an evaluation's folder, as `edje.analysis` reads it: config.yaml and the results.

    Raises:
        EdjeError: the folder can't be written.
    """
    with writing_to(folder):
        (folder / CONFIG).write_bytes(config.encode())
        write_results(folder, metrics, reranked, collection)


def write_results(
    folder: Path,
    metrics: Mapping[str, Any],
    reranked: Mapping[Direction, RerankedList],
    collection: Collection,
) -> None:
    """A run folder's metrics.json, candidates.parquet, queries.parquet and images.parquet.

    And skipped_images.json, where images were left out.
    """
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
        texts = collection.texts if direction == "t2i" else None
        queries.append(pd.DataFrame(query_columns(lists, query_ids, images, texts)))
    pd.concat(candidates, ignore_index=True).to_parquet(folder / "candidates.parquet")
    pd.concat(queries, ignore_index=True).to_parquet(folder / "queries.parquet")
    paths = [str(Path(image.path).resolve()) for image in split.images]
    pd.DataFrame({"image_id": image_ids, "path": paths}).to_parquet(folder / "images.parquet")
    if split.skipped:
        (folder / SKIPPED).write_text(json.dumps(list(split.skipped), indent=1))
    else:
        (folder / SKIPPED).unlink(missing_ok=True)  # of earlier results
    with new_file(folder / METRICS) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2))
