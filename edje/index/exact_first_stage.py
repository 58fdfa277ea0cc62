"""The first stage of an index: exact, all embeddings in memory as one tensor."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.index.image_table import KEY, READABLE, ROW, ImageTable
from edje.retrieval.exact import SIMILARITY_BYTES, similarities


@dataclass(frozen=True)
class ExactFirstStage:
    """Embeddings of all readable pictures of a version of a table, and their row ids in it."""

    version: int
    embeddings: Float[Tensor, "images embedding"]
    row_ids: np.ndarray  # (images,), uint64

    @classmethod
    def of(cls, table: ImageTable, column: str) -> "ExactFirstStage":
        """Read the embeddings of a column: float32 in memory once, and a batch besides.

        Raises:
            EdjeError: the table can't be read.
        """
        width = table.width_of(column)
        count = table.count(READABLE)
        embeddings = torch.empty(count, width)
        row_ids = np.empty(count, np.uint64)
        done = 0
        for batch in table.scan([column], READABLE):
            rows = slice(done, done + batch.num_rows)
            values = batch.column(column).flatten().to_numpy().reshape(-1, width)
            embeddings.numpy()[rows] = values
            row_ids[rows] = batch.column(ROW).to_numpy()
            done = rows.stop
        return cls(table.version, embeddings, row_ids)

    def among(self, table: ImageTable, where: str) -> Int[Tensor, "some"]:
        """Rows of the embeddings that a filter lets through.

        Raises:
            EdjeError: it is no filter.
        """
        found = [batch.column(ROW).to_numpy() for batch in table.scan([KEY], where)]
        chosen = np.isin(self.row_ids, np.concatenate([np.empty(0, np.uint64), *found]))
        return torch.from_numpy(chosen.nonzero()[0])

    def best(
        self, query: Float[Tensor, "embedding"], k: int, among: Int[Tensor, "some"] | None = None
    ) -> tuple[Int[Tensor, "pool"], Float[Tensor, "pool"]]:
        """Rows and scores of the `k` best of all pictures, or of some, best first.

        Of equal ones the lower row comes first.
        """
        return self.best_of(next(self.similarities([query])), k, among)

    def similarities(
        self, queries: Sequence[Float[Tensor, "embedding"]]
    ) -> Iterator[Float[Tensor, "images"]]:
        """The scores of each query with all pictures; of several, the embeddings are read once."""
        together = max(1, SIMILARITY_BYTES // (4 * max(1, len(self.embeddings))))
        for first in range(0, len(queries), together):
            some = torch.stack(list(queries[first : first + together]))
            yield from similarities(some, self.embeddings)

    def best_of(
        self, scores: Float[Tensor, "images"], k: int, among: Int[Tensor, "some"] | None = None
    ) -> tuple[Int[Tensor, "pool"], Float[Tensor, "pool"]]:
        """As `best`, from the scores of a query with all pictures."""
        rows = torch.arange(len(scores)) if among is None else among
        scores = scores[rows]
        if k < len(scores):
            good = scores >= scores.topk(k).values[-1]
            rows, scores = rows[good], scores[good]
        order = scores.argsort(descending=True, stable=True)[:k]
        return rows[order], scores[order]
