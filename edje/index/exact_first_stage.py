"""The exact first stage of an index: all embeddings in memory as one tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.index.image_table import KEY, READABLE, ROW, ImageTable
from edje.retrieval.exact import SIMILARITY_BYTES, similarities


@dataclass(frozen=True)
class Wanted:
    """A query's embedding, the number of pictures wanted, and the filter they must pass."""

    query: Float[Tensor, "embedding"]
    k: int
    where: str | None = None


@dataclass(frozen=True)
class Found:
    """Row ids of the best pictures and their scores, best first, and the number searched."""

    row_ids: np.ndarray  # (found,), uint64
    scores: Float[Tensor, "found"]
    searched: int


@dataclass(frozen=True)
class ExactFirstStage:
    """Embeddings and row ids of all readable pictures in a version of a table."""

    table: ImageTable
    embeddings: Float[Tensor, "images embedding"]
    row_ids: np.ndarray  # (images,), uint64

    @classmethod
    def of(cls, table: ImageTable, column: str) -> "ExactFirstStage":
        """Read the embeddings of a column: float32 in memory once, plus one batch.

        Raises:
            EdjeError: the table can't be read.
        """
        count = table.count(READABLE)
        embeddings = torch.empty(count, table.width_of(column))
        row_ids = np.empty(count, np.uint64)
        done = 0
        for some, vectors in table.embeddings(column):
            rows = slice(done, done + len(some))
            row_ids[rows], embeddings.numpy()[rows] = some, vectors
            done = rows.stop
        return cls(table, embeddings, row_ids)

    def best(self, wanted: Sequence[Wanted]) -> Iterator[Found]:
        """The `k` best of each; ties go to the lower row. The embeddings are read once for all.

        Raises:
            EdjeError: a filter is invalid.
        """
        together = max(1, SIMILARITY_BYTES // (4 * max(1, len(self.embeddings))))
        for first in range(0, len(wanted), together):
            some = wanted[first : first + together]
            of_each = similarities(torch.stack([one.query for one in some]), self.embeddings)
            for one, scores in zip(some, of_each, strict=True):
                yield self._best(scores, one)

    def _best(self, scores: Float[Tensor, "images"], wanted: Wanted) -> Found:
        rows = self._among(wanted.where) if wanted.where else torch.arange(len(scores))
        scores = scores[rows]
        searched = len(scores)
        if wanted.k < searched:
            good = scores >= scores.topk(wanted.k).values[-1]
            rows, scores = rows[good], scores[good]
        order = scores.argsort(descending=True, stable=True)[: wanted.k]
        return Found(self.row_ids[rows[order].numpy()], scores[order], searched)

    def _among(self, where: str) -> Tensor:
        """Rows of the embeddings that pass a filter."""
        found = [batch.column(ROW).to_numpy() for batch in self.table.scan([KEY], where)]
        chosen = np.isin(self.row_ids, np.concatenate([np.empty(0, np.uint64), *found]))
        return torch.from_numpy(chosen.nonzero()[0])
