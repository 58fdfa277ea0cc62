"""The ranked lists of a run, read back, and its metrics recomputed from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from edje.analysis.runs import read_metrics
from edje.errors import EdjeError
from edje.records import DIRECTIONS, CandidateList, Direction
from edje.retrieval.report import CUTOFFS, retrieval_metrics
from edje.retrieval.rerank import RerankedList

QUERY_COLUMNS = ("direction", "query_id", "image_id", "num_relevant")
CANDIDATE_COLUMNS = (
    *("direction", "query_id", "candidate_id", "rank_first"),
    *("first_stage", "joint", "final", "relevant"),
)


@dataclass(frozen=True)
class StoredLists:
    """The lists of one direction, and the ids of their rows."""

    reranked: RerankedList
    queries: pd.DataFrame  # a row per query: query_id, image_id, num_relevant, text
    candidate_ids: tuple[str, ...]  # indexed by the numbers in reranked.first.candidates


def recompute_metrics(
    run_folder: str | Path,
    *,
    ks: Sequence[int] = CUTOFFS,
    seed: int | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """The recall part of metrics.json, from the run's parquet files.

    `seed` is the bootstrap's. By default it is the run's; then all values equal those in
    metrics.json to the last digit.

    Raises:
        EdjeError: as `read_lists`, or one of `ks` or `resamples` is below 1.
    """
    stored = read_lists(run_folder)
    if seed is None:
        seed = int(read_metrics(run_folder)["seed"])
    images = {
        direction: image_rows(lists.queries["image_id"]) for direction, lists in stored.items()
    }
    reranked = {direction: lists.reranked for direction, lists in stored.items()}
    kinds = _equal_captions(stored)
    return retrieval_metrics(reranked, images, kinds=kinds, ks=ks, seed=seed, resamples=resamples)


def _equal_captions(
    stored: Mapping[Direction, StoredLists],
) -> dict[Direction, Int[Tensor, "gallery"]]:
    """Equal numbers for the captions of an image query's lists that have the same text."""
    if "i2t" not in stored or "t2i" not in stored or "text" not in stored["t2i"].queries:
        return {}
    texts = stored["t2i"].queries.set_index("query_id")["text"]
    ids = pd.Series(stored["i2t"].candidate_ids)
    return {"i2t": torch.from_numpy(pd.factorize(ids.map(texts).fillna(ids))[0].copy())}


def read_lists(run_folder: str | Path) -> dict[Direction, StoredLists]:
    """The lists of each direction in candidates.parquet and queries.parquet.

    Raises:
        EdjeError: a file or a column is missing, or the two files don't match.
    """
    folder = Path(run_folder)
    candidates = _read(folder / "candidates.parquet", CANDIDATE_COLUMNS)
    queries = _read(folder / "queries.parquet", QUERY_COLUMNS)
    return {
        direction: _direction(
            direction,
            candidates[candidates["direction"] == direction],
            queries[queries["direction"] == direction].reset_index(drop=True),
            folder,
        )
        for direction in DIRECTIONS
        if (queries["direction"] == direction).any()
    }


def read_text_lists(run_folder: str | Path) -> StoredLists:
    """The lists of the text queries, whose table has the column `text`.

    Raises:
        EdjeError: as `read_lists`, or there are no text queries, or their text is missing.
    """
    stored = read_lists(run_folder).get("t2i")
    if stored is None or "text" not in stored.queries:
        raise EdjeError(
            f"The lists in {run_folder} have no text queries with their text: evaluate this run "
            "again."
        )
    return stored


def read_text_queries(run_folder: str | Path) -> pd.DataFrame:
    """A row per text query: query_id, image_id, num_relevant.

    Raises:
        EdjeError: queries.parquet or one of its columns is missing, or there are no text queries.
    """
    queries = _read(Path(run_folder) / "queries.parquet", QUERY_COLUMNS)
    queries = queries[queries["direction"] == "t2i"]
    if queries.empty:
        raise EdjeError(f"{run_folder} has no text queries: evaluate this run again.")
    return queries


def image_paths(run_folder: str | Path) -> dict[str, str]:
    """The file of each image that the run was evaluated on, by image id, in the run's order.

    Raises:
        EdjeError: the run has no image paths.
    """
    table = _read(Path(run_folder) / "images.parquet", ("image_id", "path"))
    return dict(zip(table["image_id"], table["path"], strict=True))


def image_rows(image_ids: pd.Series) -> Int[Tensor, "queries"]:
    """A number for the image of each query; intervals resample these images."""
    return torch.from_numpy(pd.factorize(image_ids)[0].copy())


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise EdjeError(f"No {path.name} in {path.parent}: evaluate this run first.")
    table = pd.read_parquet(path)
    missing = [column for column in columns if column not in table]
    if missing:
        raise EdjeError(
            f"{path} has no column {', '.join(missing)} (it has {', '.join(table.columns)}): "
            "evaluate this run again."
        )
    return table


def _direction(
    direction: Direction, candidates: pd.DataFrame, queries: pd.DataFrame, folder: Path
) -> StoredLists:
    """The rows of one direction as matrices: queries in their file's order, best first."""
    positions = pd.Series(queries.index, index=queries["query_id"])
    rows = candidates.assign(query=candidates["query_id"].map(positions))
    rows = rows.sort_values(["query", "rank_first"])
    count, pool = len(queries), len(rows) // max(len(queries), 1)
    expected = pd.Series(range(count)).repeat(pool).to_numpy()
    if pool == 0 or len(rows) != len(expected) or (rows["query"].to_numpy() != expected).any():
        raise EdjeError(
            f"candidates.parquet and queries.parquet in {folder} don't match: "
            f"{len(rows)} {direction} candidates do not make equal lists for {count} queries. "
            "Evaluate this run again."
        )
    codes, ids = pd.factorize(rows["candidate_id"])

    def matrix(column: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(column, dtype=dtype).reshape(count, pool)

    first = CandidateList(
        direction,
        matrix(codes, torch.long),
        matrix(rows["first_stage"].to_numpy(), torch.float32),
        matrix(rows["relevant"].to_numpy(), torch.bool),
        torch.tensor(queries["num_relevant"].to_numpy(), dtype=torch.long),
    )
    reranked = RerankedList(
        first,
        matrix(rows["joint"].to_numpy(), torch.float32),
        matrix(rows["final"].to_numpy(), torch.float64),
    )
    return StoredLists(reranked, queries, tuple(ids))
