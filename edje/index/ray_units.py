"""The work of a Ray worker: a unit of pictures becomes a piece of the table, not yet in it."""

import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from edje.errors import EdjeError
from edje.index.additions import Addition, OnError, mended
from edje.index.built_with import check_reranker
from edje.index.given_pictures import GivenPicture
from edje.index.image_table import ImageTable
from edje.index.known_pictures import KnownPicture, KnownPictures
from edje.index.lance_library import TO_WRITE, lance, pylance
from edje.index.shards import Shard
from edje.inference.reranker import Reranker

UNIT, OUTCOME = "unit", "outcome"  # columns of the data sets sent to the workers and back


@dataclass(frozen=True)
class Unit:
    """Pictures that a worker takes at once: files, or those of a shard.

    `known` is the rows with their ids; keys from `first_key` up to `end` are for the others.
    """

    number: int
    given: Sequence[GivenPicture] | Shard
    known: Sequence[KnownPicture]
    first_key: int
    end: int

    def __str__(self) -> str:
        """Its name in messages."""
        if isinstance(self.given, Shard):
            return self.given.path
        return f"{self.given[0].id} to {self.given[-1].id}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a unit.

    `pieces` are written but not yet in the table; `changed` rows replace others. `left` are
    pictures that may have moved; `mended` are keys of rows to be removed. With an `error`, the
    rest is what was done before it. If `is_lost`, nothing was done, as its workers died.
    """

    number: int
    counts: Mapping[str, int]
    pieces: Sequence[str] = ()
    changed: pa.Table | None = None
    left: Sequence[GivenPicture] = ()
    mended: Sequence[int] = ()
    error: str | None = None
    is_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The instructions for all workers of an addition.

    `reranker` is its name, `num_tokens` those that it reads, None if it can read no fewer.
    `gone` is the hashes of files that are no longer at their paths. The folder `begun` has a file
    per unit with a byte for each attempt: Ray itself would try it forever.
    """

    folder: Path
    version: int
    reranker: str
    num_tokens: int | None
    values: Callable[[str], Mapping[str, Any]]
    on_error: OnError
    batch_size: int
    gone: frozenset[str]
    begun: Path
    most_tries: int


class Worker:
    """A Ray process with a reranker, which it loads for its first unit."""

    def __init__(self, assignment: bytes):
        self.assignment: Assignment = pickle.loads(assignment)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Outcomes of units, in the form that Ray Data passes on."""
        units = map(pickle.loads, batch.column(UNIT).to_pylist())
        made = [pickle.dumps(self.outcome_of(unit)) for unit in units]
        return pa.table({OUTCOME: pa.array(made, pa.large_binary())})

    def outcome_of(self, unit: Unit) -> Outcome:
        """A unit's pieces, written; an error that the user can fix is returned as text."""
        try:
            if self._tries(unit) > self.assignment.most_tries:
                return Outcome(unit.number, {}, is_lost=True)
            return self._done(unit)
        except EdjeError as error:
            return Outcome(unit.number, {}, error=str(error))

    def _tries(self, unit: Unit) -> int:
        """Number of attempts at a unit, including this one."""
        path = self.assignment.begun / str(unit.number)
        with lance(self.assignment.folder, TO_WRITE), path.open("ab") as file:
            file.write(b".")
            return file.tell()

    @cached_property
    def _table(self) -> ImageTable:
        """The table before the addition."""
        table = ImageTable.open(self.assignment.folder, self.assignment.version)
        if table is None:
            raise EdjeError(
                f"a worker of Ray finds no index at {self.assignment.folder}. The index, the "
                "pictures and the reranker must be at the same paths on all machines."
            )
        return table

    @cached_property
    def _reranker(self) -> Reranker:
        told = self.assignment
        reranker = Reranker.from_pretrained(told.reranker, num_tokens=told.num_tokens)
        check_reranker(self._table, reranker)
        return reranker

    def _done(self, unit: Unit) -> Outcome:
        told, shard = self.assignment, unit.given if isinstance(unit.given, Shard) else None
        given = unit.given if not isinstance(unit.given, Shard) else unit.given.pictures()
        known = KnownPictures(unit.known, {one.id for one in given})
        to_read = known.to_be_read(given)
        addition = Addition(
            self._table,
            self._reranker.picture_encoder,
            to_read,
            known,
            unit.first_key,
            batch_size=told.batch_size,
            on_error=told.on_error,
            values=told.values,
            leave=told.gone,
        )
        made = Made(addition, self._table)
        pieces = made.pieces()
        return Outcome(
            unit.number,
            Counter(addition.counts) + Counter(unchanged=len(given) - len(to_read)),
            pieces,
            pa.concat_tables(made.changed) if made.changed else None,
            addition.left,
            [] if shard is None else mended(shard, given, known),
            made.error,
        )


class Made:
    """The rows of an addition; new ones go to a piece of the table as they are made."""

    def __init__(self, addition: Addition, table: ImageTable):
        self.addition, self.table = addition, table
        self.changed: list[pa.Table] = []  # to replace other rows
        self.error: str | None = None

    def pieces(self) -> list[str]:
        """New rows, written as pieces; returns what the table needs to add them.

        Raises:
            EdjeError: they can't be written.
        """
        batches = self._batches()
        first = next(batches, None)
        if first is None:
            return []
        schema = self.table.schema
        write = pylance().fragment.write_fragments
        with lance(self.table.folder, TO_WRITE):
            rows = pa.RecordBatchReader.from_batches(schema, chain([first], batches))
            pieces = write(rows, str(self.table.place), schema=schema, mode="append")
        return [json.dumps(piece.to_json()) for piece in pieces]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for rows in self.addition.pieces():
                new = [row for row in rows if self.addition.is_new(row)]
                if len(new) < len(rows):
                    known = [row for row in rows if not self.addition.is_new(row)]
                    self.changed.append(self.table.columns_of(known))
                yield from self.table.columns_of(new).to_batches()
        except EdjeError as error:  # Lance would raise it again with its own message
            self.error = str(error)
