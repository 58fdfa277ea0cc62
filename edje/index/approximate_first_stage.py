"""The approximate first stage of a large index: Lance's index of the embeddings, on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.index.exact_first_stage import Found, Wanted
from edje.index.image_table import READABLE, ImageTable, whole
from edje.retrieval.exact import similarities

SAMPLED = 100  # stored embeddings used to measure recall if no queries are given


@dataclass(frozen=True)
class ApproximateFirstStage:
    """A search of one column of embeddings by the table's index of it.

    Scores are exact; only which pictures are found is approximate. Rows written after the index
    was made are searched exactly.
    """

    table: ImageTable
    column: str

    def best(self, wanted: Sequence[Wanted]) -> Iterator[Found]:
        """The `k` best of each query, approximately.

        Raises:
            EdjeError: a filter is invalid.
        """
        for one in wanted:
            where = f"{whole(one.where)} AND {READABLE}" if one.where else self._readable
            k = min(one.k, self._all)  # Lance reserves memory for all of them
            row_ids, scores = self.table.nearest(self.column, one.query.numpy(), k, where)
            order = np.lexsort((row_ids, -scores))
            searched = self.table.count(where) if one.where else self._all
            yield Found(row_ids[order], torch.from_numpy(scores[order]), searched)

    def recall(self, k: int, queries: Float[Tensor, "queries embedding"] | None = None) -> float:
        """The share of the exact `k` best that is found, for queries or stored embeddings.

        The embeddings are read once, a batch at a time.
        """
        queries = self._sample() if queries is None else queries
        best = torch.empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.int64)
        for some, vectors in self.table.embeddings(self.column):
            scores = similarities(queries, torch.from_numpy(vectors.copy()))
            here = torch.from_numpy(some.astype(np.int64))
            best = torch.cat([best, scores], 1)
            rows = torch.cat([rows, here.expand(len(queries), -1)], 1)
            best, order = best.topk(min(k, best.shape[1]))
            rows = rows.gather(1, order)
        found = [
            np.isin(exact, best.row_ids.astype(np.int64)).mean()
            for exact, best in zip(
                rows.numpy(), self.best([Wanted(query, k) for query in queries]), strict=True
            )
        ]
        return float(np.mean(found))

    @cached_property
    def _readable(self) -> str | None:
        """The filter for readable pictures; None if all are, as a search without it is faster."""
        return READABLE if self._all < self.table.count() else None

    @cached_property
    def _all(self) -> int:
        """Number of readable pictures."""
        return self.table.count(READABLE)

    def _sample(self) -> Float[Tensor, "queries embedding"]:
        """Stored embeddings at regular intervals."""
        places = np.linspace(0, self._all - 1, min(SAMPLED, self._all)).astype(int)
        found, done = [], 0
        for row_ids, vectors in self.table.embeddings(self.column):
            found.append(vectors[places[(places >= done) & (places < done + len(row_ids))] - done])
            done += len(row_ids)
        return torch.from_numpy(np.concatenate(found))
