"""Searching one version of an index: first stage, the candidates' cells, the reranker's scores."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from edje.errors import EdjeError
from edje.index.approximate_first_stage import ApproximateFirstStage
from edje.index.exact_first_stage import ExactFirstStage
from edje.index.given_pictures import read_path
from edje.index.hits import NEAR_DUPLICATE, Hit, grouped
from edje.index.image_table import (
    CELL,
    EMBEDDING,
    ID,
    PATH,
    PROBLEM,
    READABLE,
    ROW,
    ImageTable,
)
from edje.inference.encoded_images import EncodedImages
from edje.inference.picture_encoder import stored_type
from edje.inference.reranker import Reranker
from edje.tokens.codec import Codec, make_codec


class IndexSearch:
    """What searches a table as it is now, with a reranker; of no use once the table is refreshed.

    The embeddings are read when they are first needed.
    """

    def __init__(self, table: ImageTable, reranker: Reranker, exact_up_to: int):
        self.table = table
        self.reranker = reranker
        self.exact_up_to = exact_up_to
        self.is_given = table.facts.given_width > 0  # a first stage of the user's own embeddings

    @cached_property
    def first_stage(self) -> ExactFirstStage | ApproximateFirstStage:
        """What finds the candidates of a query."""
        return self.approximate or ExactFirstStage.of(self.table, self.table.first_stage_column)

    @cached_property
    def approximate(self) -> ApproximateFirstStage | None:
        """The approximate first stage, of many pictures where there is an index of embeddings."""
        column = self.table.first_stage_column
        if self.table.count(READABLE) > self.exact_up_to and self.table.has_index(column):
            return ApproximateFirstStage(self.table, column)
        return None

    def recall(self, k: int, queries: Sequence[str] | None) -> float:
        """See `ImageIndex.stats`."""
        if self.approximate is None:
            return 1.0
        if queries is None:
            return self.approximate.recall(k)
        if self.is_given:
            raise EdjeError("stats: texts have no embedding of this index's. Leave out queries.")
        return self.approximate.recall(k, self.reranker.encode_text(list(queries)))

    def search(
        self,
        query: str,
        k: int,
        top: int,
        where: str | None,
        min_probability: float | None,
        group_duplicates: bool | float,
        query_embedding: Any,
    ) -> list[Hit]:
        """See `ImageIndex.search`."""
        self._check_query(query)
        for name, value in (("k", k), ("top", top)):
            if value < 1:
                raise EdjeError(f"search: {name}={value}, expected 1 or more.")
        text = None if self.is_given else self.reranker.encode_text([query])[0]
        asked = self._own_query(query_embedding) if text is None else text
        if text is not None and query_embedding is not None:
            raise EdjeError(
                "search: query_embedding is for an index of your own embeddings "
                "(ImageIndex.from_embeddings); this one has the reranker's."
            )
        found = self.first_stage.best(asked, k, where)
        known = None if self.is_given else found.scores
        hits, tokens = self._ranked(
            query, found.row_ids, found.scores, known, found.searched, min_probability
        )
        if group_duplicates is False:
            return hits[:top]
        least = NEAR_DUPLICATE if group_duplicates is True else group_duplicates
        return grouped(hits, tokens, top, least)

    def rerank(
        self,
        query: str,
        ids: Sequence[str],
        first_stage: Sequence[float] | None,
        min_probability: float | None,
    ) -> list[Hit]:
        """See `ImageIndex.rerank`."""
        self._check_query(query)
        row_ids = self._row_ids(ids)
        size = self.table.count(READABLE)
        known = None
        if first_stage is not None:
            if len(first_stage) != len(ids):
                raise EdjeError(
                    f"rerank: got {len(ids)} ids and {len(first_stage)} first-stage scores, "
                    "expected one for each."
                )
            known = torch.from_numpy(np.asarray(first_stage, dtype=np.float32))
        return self._ranked(query, row_ids, known, known, size, min_probability)[0]

    def _ranked(
        self,
        query: str,
        row_ids: np.ndarray,
        shown: Tensor | None,
        known: Tensor | None,
        size: int,
        min_probability: float | None,
    ) -> tuple[list[Hit], Float[Tensor, "hits tokens width"]]:
        """Hits from best to worst, with their tokens.

        `known` are first-stage scores by the reranker's own embeddings, computed here where they
        aren't given; `shown` those that the hits say, by default the same.
        """
        if not len(row_ids):
            return [], torch.empty(0, self._codec.num_tokens, self._codec.width)
        rows = self.table.take(row_ids, [ID, PATH, EMBEDDING, CELL])
        images = encoded_images(rows, self._codec)
        if known is None:
            known = images.embeddings @ self.reranker.encode_text([query])[0]
        shown = known if shown is None else shown
        scores = self.reranker.score_images(query, images, known)
        probability = self.reranker.probability(scores, size)
        if probability is None and min_probability is not None:
            raise EdjeError(
                f"min_probability={min_probability}: this reranker has no calibration, it was "
                "trained without dev images (data.dev_images > 0). Leave it out."
            )
        order = scores.argsort(descending=True, stable=True)
        if probability is not None and min_probability is not None:
            order = order[probability[order] >= min_probability]
        ids, paths = rows.column(ID).to_pylist(), rows.column(PATH).to_pylist()
        hits = [
            Hit(
                id=ids[row],
                path=read_path(paths[row]),
                score=scores[row].item(),
                probability=None if probability is None else probability[row].item(),
                first_stage=shown[row].item(),
                rank=row + 1,
            )
            for row in order.tolist()
        ]
        return hits, images.tokens[order]

    @cached_property
    def _codec(self) -> Codec:
        model = self.reranker.model
        return make_codec(
            self.reranker.choices.compressed_codec, int(model.adapter.num_tokens), model.joint.width
        )

    def _row_ids(self, ids: Sequence[str]) -> np.ndarray:
        if isinstance(ids, str):
            raise EdjeError(f"rerank: got the text {ids!r}, expected a list of ids.")
        found = self.table.named(ids, [PROBLEM])
        missing = [one for one in ids if one not in found or found[one][PROBLEM] is not None]
        if missing:
            raise EdjeError(
                f"rerank: {len(missing)} of {len(ids)} ids are of no picture of the index, such as "
                f"{missing[0]!r}. index.ids() lists them."
            )
        if len(set(ids)) < len(ids):
            raise EdjeError("rerank: an id comes twice. Give each once.")
        return np.array([found[one][ROW] for one in ids], np.uint64)

    def _own_query(self, given: Any) -> Tensor:
        width = self.table.facts.given_width
        query = torch.as_tensor(np.asarray(() if given is None else given, dtype=np.float32))
        if query.shape != (width,):
            raise EdjeError(
                f"search: this index is of your own embeddings: pass query_embedding, the query's "
                f"{width} numbers by the same model; got shape {tuple(query.shape)}."
            )
        return torch.nn.functional.normalize(query, dim=0)

    def _check_query(self, query: str) -> None:
        if not isinstance(query, str) or not query.strip():
            raise EdjeError(f"got {query!r} as query, expected a text.")


def encoded_images(rows: pa.Table, codec: Codec) -> EncodedImages:
    """Embeddings and tokens of rows of the table."""
    cells = np.frombuffer(bytearray(b"".join(rows.column(CELL).to_pylist())), np.uint8)
    embeddings = rows.column(EMBEDDING).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    tokens = codec.decode(
        torch.from_numpy(cells.reshape(rows.num_rows, codec.cell_bytes)), stored_type(codec)
    )
    return EncodedImages(torch.from_numpy(embeddings.reshape(rows.num_rows, -1).copy()), tokens)
