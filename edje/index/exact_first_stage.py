"""The first stage of an index, exact: all embeddings in memory as one tensor."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.index.image_table import KEY, READABLE, ROW, ImageTable
from edje.retrieval.exact import similarities


@dataclass(frozen=True)
class Candidates:
    """Row ids of the best pictures and their scores, best first; of how many that were searched."""

    row_ids: np.ndarray  # (candidates,), uint64
    scores: Float[Tensor, "candidates"]
    searched: int


@dataclass(frozen=True)
class ExactFirstStage:
    """Embeddings of all readable pictures of a version of a table, and their row ids in it."""

    table: ImageTable
    embeddings: Float[Tensor, "images embedding"]
    row_ids: np.ndarray  # (images,), uint64

    @classmethod
    def of(cls, table: ImageTable, column: str) -> "ExactFirstStage":
        """Read the embeddings of a column: float32 in memory once, and a batch besides.

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

    def best(
        self, query: Float[Tensor, "embedding"], k: int, where: str | None = None
    ) -> Candidates:
        """The `k` best of the pictures that a filter lets through; of equal ones the lower row.

        Raises:
            EdjeError: `where` is no filter.
        """
        scores = similarities(query[None], self.embeddings)[0]
        rows = torch.arange(len(scores)) if where is None else self._among(where)
        scores = scores[rows]
        searched = len(scores)
        if k < searched:
            good = scores >= scores.topk(k).values[-1]
            rows, scores = rows[good], scores[good]
        order = scores.argsort(descending=True, stable=True)[:k]
        return Candidates(self.row_ids[rows[order].numpy()], scores[order], searched)

    def _among(self, where: str) -> Tensor:
        """Rows of the embeddings that a filter lets through."""
        found = [batch.column(ROW).to_numpy() for batch in self.table.scan([KEY], where)]
        chosen = np.isin(self.row_ids, np.concatenate([np.empty(0, np.uint64), *found]))
        return torch.from_numpy(chosen.nonzero()[0])
