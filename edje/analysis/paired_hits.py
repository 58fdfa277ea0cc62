"""The hits of several runs on the same queries, row by row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.analysis.lists import image_rows, read_lists
from edje.analysis.runs import read_metrics
from edje.errors import EdjeError
from edje.records import Direction
from edje.retrieval.metrics import first_hit_ranks


def check_one_split(folders: Sequence[Path]) -> None:
    """Refuse runs of different images or captions, by the digests in their metrics.json.

    Raises:
        EdjeError: the runs measured different splits; lists which measured what.
    """
    measured: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        metrics = read_metrics(folder)
        digest = str(metrics.get("split_digest", ""))
        what = " ".join(str(metrics[key]) for key in ("dataset", "split") if key in metrics)
        measured.setdefault((digest, what), []).append(folder)
    if len({digest for digest, _ in measured if digest}) > 1:
        raise EdjeError(
            "These runs were evaluated on different images or captions: "
            + "; ".join(
                f"{', '.join(map(str, some))} on {what} (split_digest {digest[:12] or 'not kept'})"
                for (digest, what), some in measured.items()
            )
            + ". Compare runs of one split, or evaluate them again on one."
        )


def paired_hits(
    folders: Sequence[Path], direction: Direction, k: int
) -> tuple[Float[Tensor, "queries runs"], Int[Tensor, "queries"]]:
    """Whether each query has a hit among its first `k` after reranking (0 or 100), for each run.

    Also returns a number for the image of each query.

    Raises:
        EdjeError: a run lacks queries of this direction, or has others than the first run.
    """
    columns: list[pd.Series] = []
    images: pd.Series | None = None
    for folder in folders:
        stored = read_lists(folder).get(direction)
        if stored is None:
            raise EdjeError(f"{folder} has no {direction} queries: compare the other direction.")
        ranks = first_hit_ranks(stored.reranked.final, stored.reranked.first.relevant)
        queries = stored.queries.set_index("query_id")
        if images is None:
            images = queries["image_id"]
        elif not images.sort_index().equals(queries["image_id"].sort_index()):
            raise EdjeError(
                f"{folders[0]} and {folder} were evaluated on different images or captions "
                f"({len(images)} and {len(queries)} {direction} queries). Compare runs of one "
                "split, or evaluate them again on one."
            )
        hits = pd.Series(100.0 * (ranks <= k).numpy(), index=queries.index)
        columns.append(hits.loc[images.index])
    assert images is not None
    hits_of_runs = np.stack([hits.to_numpy() for hits in columns], axis=1)
    return torch.from_numpy(hits_of_runs), image_rows(images)
