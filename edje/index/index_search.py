"""Searching one version of an index: first stage, the candidates' cells, the reranker's scores."""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from edje.errors import EdjeError
from edje.images.pictures import is_unicode
from edje.index.answers import Answer, Missing, Question, StageSeconds, UnknownPicture
from edje.index.approximate_first_stage import ApproximateFirstStage
from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.given_pictures import read_path, valid_id
from edje.index.hits import Hit
from edje.index.image_table import (
    CELL,
    EMBEDDING,
    HEIGHT,
    ID,
    PATH,
    PROBLEM,
    READABLE,
    ROW,
    WIDTH,
    ImageTable,
)
from edje.inference.encoded_images import EncodedImages
from edje.inference.given_numbers import finite_numbers, number_per
from edje.inference.picture_encoder import stored_type
from edje.inference.reranker import Reranker
from edje.inference.text_image_pairs import check_query, texts_of
from edje.ranges import check_count
from edje.tokens.codec import Codec, make_codec

OF_A_PICTURE = (ID, PATH, WIDTH, HEIGHT)
OF_A_FILTER = re.compile(  # texts, names, comments, slices and casts; else brackets, placeholders
    r"""'[^']*'|"[^"]*"|`[^`]*`|--[^\n]*|/\*.*?\*/|\[[^\]]*\]|::|[()?$]|:(?=[^\W\d])""",
    re.DOTALL,
)
SHOWN = 5  # ids in a message


@dataclass(frozen=True)
class Candidates:
    """What the reranker reads for a question.

    `shown` is the first-stage scores for the hits; `known` is those by the reranker's own
    embeddings, None if they still have to be computed. `size` is the number of pictures searched.
    """

    row_ids: np.ndarray  # (pool,), uint64
    shown: Float[Tensor, "pool"] | None
    known: Float[Tensor, "pool"] | None
    size: int


class IndexSearch:
    """Searches a table as it is now, with a reranker; invalid once the table is refreshed.

    The embeddings are read on first use.
    """

    def __init__(self, table: ImageTable, reranker: Reranker, exact_up_to: int):
        self.table = table
        self.reranker = reranker
        self.exact_up_to = exact_up_to
        self.is_given = table.facts.given_width > 0  # the first stage is the user's own embeddings
        self._rerankers: dict[int, Reranker] = {}  # by the smaller number of tokens they read

    @cached_property
    def first_stage(self) -> ExactFirstStage | ApproximateFirstStage:
        """The search that finds a query's candidates."""
        return self.approximate or ExactFirstStage.of(self.table, self.table.first_stage_column)

    @cached_property
    def approximate(self) -> ApproximateFirstStage | None:
        """The approximate first stage, if there are many pictures and an index of embeddings."""
        column = self.table.first_stage_column
        if self.table.count(READABLE) > self.exact_up_to and self.table.has_index(column):
            return ApproximateFirstStage(self.table, column)
        return None

    def recall(self, k: int, queries: Sequence[str] | None) -> float:
        """See `ImageIndex.stats`."""
        if queries is not None and not (queries := texts_of(queries, "queries of stats")):
            raise EdjeError("stats: queries is empty. Give some texts, or leave it out.")
        if self.approximate is None:
            return 1.0
        if queries is None:
            return self.approximate.recall(k)
        if self.is_given:
            raise EdjeError("stats: texts have no embedding for this index. Leave out queries.")
        return self.approximate.recall(k, self.reranker.encode_text(queries))

    def answers(self, questions: Sequence[Question]) -> list[Answer]:
        """The hits of each question; all questions go through each stage together.

        Raises:
            EdjeError: a question is invalid, as in `ImageIndex.search` and `rerank`.
        """
        if not questions:
            return []
        began = time.perf_counter()
        for question in questions:
            self._check(question)
        texts = self._texts(questions)
        encoded = time.perf_counter()
        chosen = self._candidates(questions, texts)
        found = time.perf_counter()
        row_ids, places = np.unique(
            np.concatenate([np.empty(0, np.uint64), *(one.row_ids for one in chosen)]),
            return_inverse=True,
        )
        ends = np.cumsum([len(one.row_ids) for one in chosen])[:-1]
        rows = [torch.from_numpy(part) for part in np.split(places, ends)]
        images, facts = self._read(row_ids)
        read = time.perf_counter()
        chosen = [
            one if one.known is not None else replace(one, known=images.embeddings[some] @ text)
            for one, some, text in zip(chosen, rows, texts, strict=True)
        ]
        scores = self._scores(questions, images, rows, chosen)
        seconds = StageSeconds(
            encoded - began, found - encoded, read - found, time.perf_counter() - read
        )
        return [
            self._answer(question, one, scored, some, images, facts, seconds)
            for question, one, scored, some in zip(questions, chosen, scores, rows, strict=True)
        ]

    def encoded(self, ids: Sequence[str]) -> EncodedImages:
        """Embeddings and tokens of pictures by their ids, in their order.

        Raises:
            EdjeError: as `ImageIndex.rerank`.
        """
        chosen, _ = self._rows([ids], ["error"], "encoded")[0]
        row_ids, places = np.unique(chosen, return_inverse=True)
        return self._read(row_ids)[0][places]

    def with_tokens(self, num_tokens: int | None) -> Reranker:
        """The reranker, or the same one reading only the first tokens.

        Raises:
            EdjeError: it wasn't trained for this number.
        """
        if num_tokens is None or num_tokens == int(self.reranker.model.adapter.num_tokens):
            return self.reranker
        if num_tokens not in self._rerankers:
            self._rerankers[num_tokens] = self.reranker.with_first_tokens(num_tokens)
        return self._rerankers[num_tokens]

    def _texts(self, questions: Sequence[Question]) -> list[Tensor]:
        """The reranker's embedding of each text; empty if first-stage scores are given."""
        texts = list(dict.fromkeys(one.query for one in questions if one.first_stage is None))
        embeddings = self.reranker.encode_text(texts) if texts else torch.empty(0)
        known = dict(zip(texts, embeddings, strict=True))
        return [known.get(one.query, torch.empty(0)) for one in questions]

    def _candidates(
        self, questions: Sequence[Question], texts: Sequence[Tensor]
    ) -> list[Candidates]:
        lists = [(one.ids, one.missing) for one in questions if one.ids is not None]
        named = iter(self._rows([ids for ids, _ in lists], [one for _, one in lists], "rerank"))
        wanted = [
            Wanted(
                self._own_query(one.query_embedding) if self.is_given else text, one.k, one.where
            )
            for one, text in zip(questions, texts, strict=True)
            if one.ids is None
        ]
        best = iter(self.first_stage.best(wanted) if wanted else ())
        chosen = []
        for question in questions:
            if question.ids is not None:
                row_ids, there = next(named)
                given = question.first_stage
                known = None
                if given is not None:
                    known = number_per(len(question.ids), given, "rerank: first_stage")[there]
                chosen.append(Candidates(row_ids, known, known, self._size))
                continue
            found = next(best)
            known = None if self.is_given else found.scores
            chosen.append(Candidates(found.row_ids, found.scores, known, found.searched))
        return chosen

    def _read(self, row_ids: np.ndarray) -> tuple[EncodedImages, dict[str, list[Any]]]:
        """Pictures by their ascending row ids, and the columns that a hit shows."""
        if not len(row_ids):
            width = self.reranker.checkpoint.facts.embedding_width
            tokens = torch.empty(0, self._codec.num_tokens, self._codec.width)
            return EncodedImages(torch.empty(0, width), tokens), {}
        rows = self.table.take(row_ids, [*self._shown, EMBEDDING, CELL])
        facts = {name: rows.column(name).to_pylist() for name in self._shown}
        return encoded_images(rows, self._codec), facts

    def _scores(
        self,
        questions: Sequence[Question],
        images: EncodedImages,
        rows: Sequence[Tensor],
        chosen: Sequence[Candidates],
    ) -> list[Tensor]:
        """Final scores of each question's candidates; equal token counts are scored together."""
        scores: list[Tensor] = [torch.empty(0)] * len(questions)
        for num_tokens in dict.fromkeys(one.num_tokens for one in questions):
            together = [at for at, one in enumerate(questions) if one.num_tokens == num_tokens]
            found = self.with_tokens(num_tokens).score_several(
                [questions[at].query for at in together],
                EncodedImages(images.embeddings, images.tokens[:, :num_tokens]),
                [rows[at] for at in together],
                [_known(chosen[at]) for at in together],
            )
            for at, one in zip(together, found, strict=True):
                scores[at] = one
        return scores

    def _answer(
        self,
        question: Question,
        chosen: Candidates,
        scores: Tensor,
        rows: Tensor,
        images: EncodedImages,
        facts: dict[str, list[Any]],
        seconds: StageSeconds,
    ) -> Answer:
        """Hits from best to worst, with their tokens."""
        probability = self.with_tokens(question.num_tokens).probability(scores, chosen.size)
        first = _known(chosen) if chosen.shown is None else chosen.shown
        order = scores.argsort(descending=True, stable=True)
        hits = [
            Hit(
                id=facts[ID][row],
                path=read_path(facts[PATH][row]),
                score=scores[place].item(),
                probability=None if probability is None else probability[place].item(),
                first_stage=first[place].item(),
                rank=place + 1,
                width=facts[WIDTH][row],
                height=facts[HEIGHT][row],
                columns={name: facts[name][row] for name in self._shown[len(OF_A_PICTURE) :]},
            )
            for place, row in zip(order.tolist(), rows[order].tolist(), strict=True)
        ]
        return Answer(hits, images.tokens[rows[order]], seconds)

    @cached_property
    def _shown(self) -> list[str]:
        """The columns that a hit shows, then the user's."""
        return [*OF_A_PICTURE, *self.table.user_columns]

    @cached_property
    def _codec(self) -> Codec:
        model = self.reranker.model
        return make_codec(
            self.reranker.choices.compressed_codec, int(model.adapter.num_tokens), model.joint.width
        )

    @cached_property
    def _size(self) -> int:
        return self.table.count(READABLE)

    def _rows(
        self, lists: Sequence[Sequence[str]], missing: Sequence[Missing], caller: str
    ) -> list[tuple[np.ndarray, list[int]]]:
        """Of several lists of ids: the row ids of those that are there, and their places."""
        lists = [list_of_ids(caller, ids) for ids in lists]
        every = list(dict.fromkeys(name for ids in lists for name in ids))
        found = {
            name: row[ROW]
            for name, row in self.table.named(every, [PROBLEM]).items()
            if row[PROBLEM] is None
        }
        chosen = []
        for ids, what in zip(lists, missing, strict=True):
            absent = [one for one in ids if one not in found]
            if absent and what == "error":
                skip = ' missing="skip" leaves them out.' if caller == "rerank" else ""
                raise UnknownPicture(f"{not_there(caller, absent, len(ids))}.{skip}", absent)
            there = [at for at, one in enumerate(ids) if one in found]
            chosen.append((np.array([found[ids[at]] for at in there], np.uint64), there))
        return chosen

    def _own_query(self, given: Any) -> Tensor:
        width = self.table.facts.given_width
        query = torch.tensor(finite_numbers(() if given is None else given, "query_embedding"))
        if query.shape != (width,) or not query.any():
            raise EdjeError(
                f"search: this index has your own embeddings: pass query_embedding, the query's "
                f"{width} numbers by the same model; got shape {tuple(query.shape)}"
                f"{'' if query.any() else ', all zero'}."
            )
        return torch.nn.functional.normalize(query, dim=0)

    def _check(self, question: Question) -> None:
        query, ids = question.query, question.ids
        check_query(query)
        check_where(question.where)
        if ids is None:
            check_count("k", question.k, 1)
            if question.query_embedding is not None and not self.is_given:
                raise EdjeError(
                    "search: query_embedding is for an index of your own embeddings "
                    "(ImageIndex.from_embeddings); this one has the reranker's."
                )
            return
        if question.missing not in get_args(Missing):
            raise EdjeError(f"rerank: missing={question.missing!r}, expected error or skip.")
        ids = list_of_ids("rerank", ids)
        if len(set(ids)) < len(ids):
            raise EdjeError("rerank: an id occurs twice. Give each once.")


def check_where(where: Any) -> None:
    """Refuse a filter that isn't a text, or whose brackets or placeholders Lance misreads.

    A closing bracket too many would end it there, and a placeholder ends in a panic.

    Raises:
        EdjeError: it is something else, no valid Unicode, has a bracket without its other one, or
            a placeholder.
    """
    if where is None:
        return
    if not (isinstance(where, str) and is_unicode(where)):
        raise EdjeError(f'where={where!r}: expected a filter as a text, such as "width > 1000".')
    opened = 0
    for mark in OF_A_FILTER.findall(where):
        opened += {"(": 1, ")": -1}.get(mark, 0)
        if mark in ("?", "$", ":"):
            raise EdjeError(
                f"invalid filter {where!r}: {mark} stands for a value that nothing gives. "
                "Write the value itself, a text in single quotes: \"album = 'Rome'\"."
            )
        if opened < 0:
            break
    if opened:
        which = "opened and not closed" if opened > 0 else "closed and not opened"
        raise EdjeError(f"invalid filter {where!r}: a bracket is {which}. Write both of a pair.")


def not_there(caller: str, absent: Sequence[str], count: int) -> str:
    """Which of so many ids are not in the index; without a full stop."""
    some = ", ".join(map(repr, absent[:SHOWN])) + (", …" if absent[SHOWN:] else "")
    return (
        f"{caller}: {len(absent)} of {count} ids are not in the index, such as {some}; "
        "index.ids() lists those that are"
    )


def list_of_ids(caller: str, ids: Any) -> list[str]:
    """Ids of pictures as a list, written as the index writes them.

    Raises:
        EdjeError: it is a single text, or something in it isn't a text or can't be an id.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise EdjeError(f"{caller}: got {ids!r}, expected a list of ids.")
    found = list(ids)
    if other := [one for one in found if not isinstance(one, str)]:
        raise EdjeError(f"{caller}: got {other[0]!r} among the ids, expected texts.")
    return [valid_id(one) for one in found]


def _known(chosen: Candidates) -> Tensor:
    assert chosen.known is not None
    return chosen.known


def encoded_images(rows: pa.Table, codec: Codec) -> EncodedImages:
    """Embeddings and tokens of rows of the table."""
    cells = np.frombuffer(bytearray(b"".join(rows.column(CELL).to_pylist())), np.uint8)
    embeddings = rows.column(EMBEDDING).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    tokens = codec.decode(
        torch.from_numpy(cells.reshape(rows.num_rows, codec.cell_bytes)), stored_type(codec)
    )
    return EncodedImages(torch.from_numpy(embeddings.reshape(rows.num_rows, -1).copy()), tokens)
