"""The results in a run folder: metrics, all scores, and the data for galleries."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from edje.durable import new_file
from edje.pipeline.collection import Collection
from edje.records import Direction
from edje.retrieval.report import candidate_columns, query_columns
from edje.retrieval.rerank import RerankedList


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
        texts = collection.texts if direction == "t2i" else None
        queries.append(pd.DataFrame(query_columns(lists, query_ids, images, texts)))
    pd.concat(candidates, ignore_index=True).to_parquet(folder / "candidates.parquet")
    pd.concat(queries, ignore_index=True).to_parquet(folder / "queries.parquet")
    paths = [str(Path(image.path).resolve()) for image in split.images]
    pd.DataFrame({"image_id": image_ids, "path": paths}).to_parquet(folder / "images.parquet")
    if split.skipped:
        (folder / "skipped_images.json").write_text(json.dumps(list(split.skipped), indent=1))
    with new_file(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2))
