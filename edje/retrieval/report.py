"""The results of a run: the recall part of metrics.json and the columns of its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.records import Direction
from edje.retrieval.intervals import interval_columns
from edje.retrieval.metrics import first_hit_ranks, hits_at_k
from edje.retrieval.rerank import RerankedList, share_of_ties

CUTOFFS = (1, 5, 10)
STAGES = ("first_stage", "reranked", "ceiling", "gain")


def retrieval_metrics(
    reranked: Mapping[Direction, RerankedList],
    image_of_query: Mapping[Direction, Int[Tensor, "queries"]],
    *,
    kinds: Mapping[Direction, Int[Tensor, "gallery"]] | None = None,
    ks: Sequence[int] = CUTOFFS,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Recall of first stage and reranking with 95% intervals, in percent, as in metrics.json.

    `{"t2i": {"first_stage": {"recall@1": {"value", "low", "high"}, …}, "reranked": …,
    "ceiling": …, "gain": …}, "num_candidates": {"t2i": …}, "share_of_ties": {"t2i": …}}`.
    The ceiling is the first stage's recall at the pool size, the same number at each k. The
    gain is reranked − first stage in points, with a paired interval. A k above the pool size
    covers only the pool. `image_of_query` is the image that a query belongs to: a caption's
    image (t2i), or an image itself (i2t); queries of one image are resampled together. `kinds`
    gives equal numbers to entries of the gallery that no score can distinguish; they don't count
    as ties.
    """
    results: dict[str, Any] = {
        direction: _recall(lists, image_of_query[direction], ks, seed, resamples)
        for direction, lists in reranked.items()
    }
    results["num_candidates"] = {
        direction: lists.first.candidates.shape[1] for direction, lists in reranked.items()
    }
    results["share_of_ties"] = {
        direction: share_of_ties(
            lists.final,
            kinds[direction][lists.first.candidates] if kinds and direction in kinds else None,
        )
        for direction, lists in reranked.items()
    }
    return results


def _recall(
    lists: RerankedList, images: Tensor, ks: Sequence[int], seed: int, resamples: int
) -> dict[str, dict[str, dict[str, float]]]:
    """First stage, reranked, ceiling and gain of one direction."""
    columns = stage_columns(lists, ks)
    estimates = iter(interval_columns(columns, images, seed, resamples=resamples))
    return {stage: {f"recall@{k}": asdict(next(estimates)) for k in ks} for stage in STAGES}


def stage_columns(
    lists: RerankedList, ks: Sequence[int]
) -> Float[Tensor, "queries stages_times_cutoffs"]:
    """Every query's contribution to the recall of each of `STAGES` at each of `ks`, in percent.

    Their means are recall and gain; the columns are ordered stage by stage.
    """
    relevant = lists.first.relevant
    before = hits_at_k(first_hit_ranks(lists.first.scores, relevant), ks).double()
    after = hits_at_k(first_hit_ranks(lists.final, relevant), ks).double()
    ceiling = relevant.any(dim=1, keepdim=True).double().expand_as(before)
    return 100 * torch.cat([before, after, ceiling, after - before], dim=1)


def candidate_columns(
    reranked: RerankedList, query_ids: Sequence[str], candidate_ids: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns of candidates.parquet for one direction: one row per listed pair, best first.

    `query_ids` and `candidate_ids` are the ids of the rows of queries and gallery.
    """
    first = reranked.first
    queries, pool = first.candidates.shape
    return {
        "direction": [first.direction] * (queries * pool),
        "query_id": [query_ids[row] for row in range(queries) for _ in range(pool)],
        "candidate_id": [candidate_ids[row] for row in first.candidates.flatten().tolist()],
        "rank_first": list(range(1, pool + 1)) * queries,
        "first_stage": first.scores.flatten().tolist(),
        "joint": reranked.joint.flatten().tolist(),
        "final": reranked.final.flatten().tolist(),
        "relevant": first.relevant.flatten().tolist(),
    }


def query_columns(
    reranked: RerankedList,
    query_ids: Sequence[str],
    image_ids: Sequence[str],
    texts: Sequence[str | None] | None = None,
) -> dict[str, list[Any]]:
    """Columns of queries.parquet for one direction: one row per query.

    `image_ids` are the image of each query (not of each row of the images), by which its
    interval is resampled; without them the intervals could not be recomputed. `texts` are the
    captions of text queries.
    """
    return {
        "direction": [reranked.first.direction] * len(query_ids),
        "query_id": list(query_ids),
        "image_id": list(image_ids),
        "num_relevant": reranked.first.num_relevant.tolist(),
        "text": [None] * len(query_ids) if texts is None else list(texts),
    }
