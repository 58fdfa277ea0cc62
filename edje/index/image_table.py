"""The table of an index: a row per picture, in versions; a reader keeps the version it opened."""

import json
import math
import shutil
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edje.errors import EdjeError
from edje.identity import Value
from edje.images.pictures import is_unicode
from edje.index.given_pictures import absolute
from edje.index.lance_library import TO_WRITE, index_kinds, lance, lancedb, pylance

TABLE, MAKING, FORMAT = "images", "making", 1
KEY, ID, PATH, SIZE, MODIFIED, HASH = "key", "id", "path", "size", "modified", "hash"
WIDTH, HEIGHT, ADDED, PROBLEM = "width", "height", "added", "problem"
EMBEDDING, GIVEN, CELL = "embedding", "given_embedding", "cell"
OURS = (
    *(KEY, ID, PATH, SIZE, MODIFIED, HASH, WIDTH, HEIGHT, ADDED, PROBLEM),
    *(EMBEDDING, GIVEN, CELL),
)
READABLE = f"{PROBLEM} IS NULL"  # rows of pictures that could be read
ROW, DISTANCE = "_rowid", "_distance"
FEW = 20  # a change of fewer rows than one in so many reads only these: Lance would read all
AT_ONCE = 1000  # keys in one filter
LOOKED_UP = (ID, PATH, HASH)  # columns of which a large table has an index
INDEXED_FROM = 50_000  # rows in no index that make one; in a large table a tenth of all
PROBES = 100  # parts of the embeddings' index that a query searches; there are √rows of them
REFINED = 3  # times k: the number of pictures compared exactly
Row = dict[str, Any]
Place = Path | str  # an index's folder, or its URL on object storage


def place_of(path: str | Path) -> Place:
    """The place of an index: the absolute folder, or the URL."""
    return path.rstrip("/") if isinstance(path, str) and "://" in path else absolute(path)


@dataclass(frozen=True)
class TableFacts:
    """The facts stored with a table: what it was built with, and the shapes of its cells.

    `given_width` is the width of the user's own first-stage embeddings, 0 if there are none.
    `reranker` is the name or path of the default reranker. `made` differs for each table, also
    for those made one after another in the same folder.
    """

    built_with: Mapping[str, Value]
    embedding_width: int
    cell_bytes: int
    given_width: int = 0
    reranker: str = ""
    format: int = FORMAT
    made: str = ""

    def schema(self) -> pa.Schema:
        """Columns of the table, with the facts as metadata."""
        columns = [
            pa.field(KEY, pa.int64(), nullable=False),
            pa.field(ID, pa.string(), nullable=False),
            pa.field(PATH, pa.string()),
            pa.field(SIZE, pa.int64()),
            pa.field(MODIFIED, pa.timestamp("ns")),  # UTC
            pa.field(HASH, pa.string()),
            pa.field(WIDTH, pa.int32()),
            pa.field(HEIGHT, pa.int32()),
            pa.field(ADDED, pa.timestamp("us")),  # UTC
            pa.field(PROBLEM, pa.string()),
            pa.field(EMBEDDING, pa.list_(pa.float32(), self.embedding_width)),
            pa.field(CELL, pa.binary(self.cell_bytes)),
        ]
        if self.given_width:
            columns.append(pa.field(GIVEN, pa.list_(pa.float32(), self.given_width)))
        return pa.schema(columns, metadata={"edje": json.dumps(vars(self))})


class ImageTable:
    """A reader's or the one writer's view of the table. Its version changes only on `refresh`.

    A writer must hold the index's lock, which the caller takes.
    """

    def __init__(self, folder: Place, table: Any):
        self.folder = folder
        self._table = table
        self.facts = _facts(folder, table)

    @classmethod
    def open(cls, folder: Place, version: int | None = None) -> "ImageTable | None":
        """The table of an index, by default its present version; None if there is none yet.

        Raises:
            EdjeError: it can't be read, or a later version of edje wrote it.
        """
        if isinstance(folder, Path) and folder.is_file():
            raise EdjeError(f"{folder} is a file, and an index is a folder. Name another place.")
        if isinstance(folder, Path) and not (folder / f"{TABLE}.lance").is_dir():
            return None
        library = lancedb()
        with lance(folder):
            try:
                table = library.connect(folder).open_table(TABLE)
            except ValueError as error:
                if isinstance(folder, str) and f"Table '{TABLE}' was not found" in str(error):
                    return None
                raise
            if version is not None:
                table.checkout(version)
        return cls(folder, table)

    @classmethod
    def create(cls, folder: Path, facts: TableFacts) -> "ImageTable":
        """Create an empty table, atomically.

        Raises:
            EdjeError: it can't be written.
        """
        library = lancedb()
        with lance(folder, TO_WRITE):
            shutil.rmtree(folder / MAKING, ignore_errors=True)
            library.connect(folder / MAKING).create_table(
                TABLE, schema=replace(facts, made=uuid4().hex).schema()
            )
            (folder / MAKING / f"{TABLE}.lance").rename(folder / f"{TABLE}.lance")
            shutil.rmtree(folder / MAKING)
        table = cls.open(folder)
        assert table is not None
        return table

    @property
    def version(self) -> int:
        """Number of the opened version."""
        return int(self._table.version)

    def refresh(self) -> None:
        """Switch to the present version, also of a table that was made anew in the folder.

        Raises:
            EdjeError: it is gone or can't be read, or a later version of edje wrote it.
        """
        now = type(self).open(self.folder)  # checkout_latest() never leads to a lower version
        if now is None:
            raise EdjeError(
                f"the index {self.folder} is gone. Make it again: edje index <folder> --into "
                f"{self.folder}"
            )
        if (now.facts.made, now.version) != (self.facts.made, self.version):
            self._table, self.facts = now._table, now.facts

    @property
    def schema(self) -> pa.Schema:
        """All columns with their types, including the user's."""
        return self._table.schema

    @property
    def user_columns(self) -> list[str]:
        """Names of the user's columns."""
        return [name for name in self.schema.names if name not in OURS]

    @property
    def first_stage_column(self) -> str:
        """The embeddings that a search compares with the query's."""
        return GIVEN if self.facts.given_width else EMBEDDING

    def width_of(self, column: str) -> int:
        """Length of the vectors of a column."""
        return int(self.schema.field(column).type.list_size)

    def count(self, where: str | None = None) -> int:
        """Number of rows, or of rows that pass a filter."""
        with lance(self.folder):
            return int(self._table.count_rows(whole(where) if where else None))

    def scan(self, columns: Sequence[str], where: str | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in batches, with these columns and `_rowid`.

        Raises:
            EdjeError: they can't be read, or `where` is not a valid filter.
        """
        with lance(self.folder):
            query = self._table.search().select(list(columns)).with_row_id(True)
            batches = iter((query.where(whole(where)) if where else query).to_batches())
        while True:
            with lance(self.folder):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def embeddings(self, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row ids (rows,) and vectors (rows, width) of the readable pictures, in batches.

        Raises:
            EdjeError: they can't be read.
        """
        width = self.width_of(column)
        for batch in self.scan([column], READABLE):
            vectors = batch.column(column).flatten().to_numpy().reshape(-1, width)
            yield batch.column(ROW).to_numpy(), vectors

    def take(self, row_ids: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Rows of this version by their row ids, in that order."""
        with lance(self.folder):
            found = self._table.take_row_ids(row_ids.tolist()).select(list(columns)).to_arrow()
        order = np.empty(len(row_ids), np.int64)
        order[np.argsort(row_ids)] = np.arange(len(row_ids))  # Lance gives them in order of ids
        return found.take(order)

    def rows(self, keys: Sequence[int]) -> dict[int, Row]:
        """Whole rows by their keys, with modification times in nanoseconds."""
        found: dict[int, Row] = {}
        for first in range(0, len(keys), AT_ONCE):
            where = _among(keys[first : first + AT_ONCE])
            for batch in self.scan(self.schema.names, where):
                batch = batch.set_column(
                    batch.schema.get_field_index(MODIFIED),
                    MODIFIED,
                    batch.column(MODIFIED).cast(pa.int64()),  # Python's times have no nanoseconds
                )
                found |= {row.pop(KEY): row for row in batch.drop_columns(ROW).to_pylist()}
        return found

    def write(self, rows: Sequence[Row], known: bool) -> None:
        """Add rows in one step, or with `known` replace those with the same keys.

        Raises:
            EdjeError: they can't be written; then none of them is.
        """
        with lance(self.folder, TO_WRITE):
            made = self.columns_of(rows)
            if known:
                self.merge(made)
            else:
                self._table.add(made)

    def merge(self, made: pa.Table) -> None:
        """Replace rows with the same keys, and add the others, in one step.

        Raises:
            EdjeError: they can't be written; then none of them is.
        """
        with lance(self.folder, TO_WRITE):
            merge = self._table.merge_insert(KEY).when_matched_update_all()
            merge.when_not_matched_insert_all().execute(made)

    def change(self, rows: Sequence[Row]) -> None:
        """Change rows by their keys in one step; all give the same columns, the others stay.

        Raises:
            EdjeError: they can't be written; then none of them is.
        """
        if not rows:
            return
        made = self.columns_of(rows, [name for name in rows[0] if name != ROW])
        with lance(self.folder, TO_WRITE):
            if FEW * len(rows) <= self.count():
                self.merge(self._completed(made))
            else:
                self._table.merge_insert(KEY).when_matched_update_all().execute(made)

    def _completed(self, made: pa.Table) -> pa.Table:
        """Rows with some new columns, and the others as they are in the table."""
        keys = made.column(KEY).to_pylist()
        names = self.schema.names
        batches = [
            batch.select(names)
            for first in range(0, len(keys), AT_ONCE)
            for batch in self.scan(names, _among(keys[first : first + AT_ONCE]))
        ]
        found = pa.Table.from_batches(batches, self.schema)
        order = pc.index_in(found.column(KEY), made.column(KEY).combine_chunks())
        for field in made.schema:
            place = names.index(field.name)
            found = found.set_column(place, field, made.column(field.name).take(order))
        return found

    def append_pieces(self, pieces: Sequence[str]) -> None:
        """Add pieces that others have written (`ray_units.Made`) to the table, in one step.

        Raises:
            EdjeError: the table can't be written; then none of them is in it.
        """
        if not pieces:
            return
        library = pylance()
        with lance(self.folder, TO_WRITE):
            self._table.checkout_latest()
            made = [library.FragmentMetadata.from_json(piece) for piece in pieces]
            append = library.LanceOperation.Append(made)
            library.LanceDataset.commit(str(self.place), append, read_version=self.version)
            self._table.checkout_latest()

    def columns_of(self, rows: Sequence[Row], names: Sequence[str] | None = None) -> pa.Table:
        """Rows as columns of this table, all or these."""
        schema = self.schema
        if names is not None:
            schema = pa.schema([schema.field(name) for name in names])
        return pa.table({field.name: _column(rows, field) for field in schema}, schema=schema)

    @property
    def place(self) -> Path:
        """The folder of the table itself."""
        return Path(self.folder) / f"{TABLE}.lance"  # a table at a URL is never written

    def among(
        self, column: str, texts: Sequence[str], columns: Sequence[str], where: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of which a column has one of some texts, as `scan` gives them.

        Raises:
            EdjeError: as `scan`.
        """
        texts = [one for one in texts if is_unicode(one)]  # no row has anything else
        also = f" AND {whole(where)}" if where else ""
        for first in range(0, len(texts), AT_ONCE):
            some = ("'" + one.replace("'", "''") + "'" for one in texts[first : first + AT_ONCE])
            yield from self.scan(columns, f"{column} IN ({', '.join(some)}){also}")

    def named(self, ids: Sequence[str], columns: Sequence[str]) -> dict[str, Row]:
        """Columns and `_rowid` of pictures by their ids; missing ids are left out."""
        batches = self.among(ID, ids, [ID, *columns])
        return {row[ID]: row for batch in batches for row in batch.to_pylist()}

    @property
    def next_key(self) -> int:
        """A key above those of all rows."""
        among = f"{KEY} >= {self.count() - 1}"  # keys differ, so the largest is one of these
        keys = (batch.column(KEY).to_numpy() for batch in self.scan([KEY], among))
        return 1 + max((int(some.max()) for some in keys if len(some)), default=-1)

    def delete(self, keys: Sequence[int]) -> None:
        """Remove rows by their keys.

        Raises:
            EdjeError: it can't be written.
        """
        with lance(self.folder, TO_WRITE):
            for first in range(0, len(keys), AT_ONCE):
                self._table.delete(_among(keys[first : first + AT_ONCE]))

    def add_columns(self, fields: Sequence[pa.Field]) -> None:
        """Add columns of the user's, null in all rows.

        Raises:
            EdjeError: it can't be written.
        """
        with lance(self.folder, TO_WRITE):
            self._table.add_columns(list(fields))

    def optimize(self, keep: timedelta) -> None:
        """Merge small pieces, drop deleted rows, and drop versions older than `keep`.

        Raises:
            EdjeError: it can't be written.
        """
        with lance(self.folder, TO_WRITE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about readers of former versions, see lance()
            self._table.optimize(cleanup_older_than=keep, delete_unverified=True)

    def has_index(self, column: str) -> bool:
        """Whether there is an index of a column of embeddings."""
        with lance(self.folder):
            return any(one.columns == [column] for one in self._table.list_indices())

    def make_index(self, column: str) -> None:
        """Make the index of a column of embeddings, in parts, with a byte for each number.

        Raises:
            EdjeError: it can't be written.
        """
        parts = math.isqrt(max(1, self.count()))
        config = index_kinds().IvfSq(distance_type="dot", num_partitions=parts)
        with lance(self.folder, TO_WRITE):
            self._table.create_index(column, config=config)

    def index_look_ups(self) -> None:
        """Make the indices of `LOOKED_UP`, or make them anew, if many rows are in none.

        Rows that are in none are found too, by reading them all.

        Raises:
            EdjeError: it can't be written.
        """
        with lance(self.folder, TO_WRITE):
            rows = int(self._table.count_rows())
            indexed = {one.columns[0]: one.num_indexed_rows for one in self._table.list_indices()}
            for column in LOOKED_UP:
                if rows - indexed.get(column, 0) >= max(INDEXED_FROM, rows // 10):
                    self._table.create_index(column, config=index_kinds().BTree())

    def nearest(
        self, column: str, query: np.ndarray, k: int, where: str | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row ids (uint64) and dot products (float32) of the best `k` by a column's index.

        Raises:
            EdjeError: they can't be read, or `where` is not a valid filter.
        """
        with lance(self.folder):
            search = self._table.search(query, vector_column_name=column).distance_type("dot")
            search = search.minimum_nprobes(PROBES).maximum_nprobes(PROBES if where is None else 0)
            search = search.refine_factor(REFINED).limit(k)  # 0: all, if a filter lets few pass
            search = search.where(whole(where)) if where else search
            found = search.select([KEY, DISTANCE]).with_row_id(True).to_arrow()
        return found.column(ROW).to_numpy(), 1 - found.column(DISTANCE).to_numpy()

    @property
    def bytes(self) -> int:
        """Bytes of all versions; at a URL, only of the opened one."""
        if isinstance(self.folder, Path):
            return bytes_under(self.folder)
        with lance(self.folder):
            return int(self._table.stats()["total_bytes"])

    @property
    def fragments(self) -> int:
        """Number of separate pieces that hold the rows."""
        with lance(self.folder):
            return int(self._table.stats()["fragment_stats"]["num_fragments"])


def whole(where: str) -> str:
    """A filter that Lance reads to its end: alone, only its first expression would count.

    A line's end ends a comment.
    """
    return f"({where}\n)"


def bytes_under(folder: Path) -> int:
    """Bytes of the files in a folder and its subfolders; ignores files deleted meanwhile."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return found


def _facts(folder: Place, table: Any) -> TableFacts:
    try:
        found = json.loads((table.schema.metadata or {})[b"edje"])
        if found["format"] > FORMAT:
            raise EdjeError(
                f"the index {folder} has format {found['format']}, but this version of edje reads "
                f"{FORMAT}. Upgrade edje, or index the pictures into a new folder."
            )
        return TableFacts(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise EdjeError(
            f"{folder} has a table of Lance that is not an index of edje ({error!r}). Name another "
            "folder."
        ) from error


def _among(keys: Sequence[int]) -> str:
    return f"{KEY} IN ({', '.join(map(str, keys))})"


def _column(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if pa.types.is_fixed_size_list(field.type):  # the library doesn't accept nulls among these
        zeros = np.zeros(field.type.list_size, np.float32)
        values = [zeros if value is None else value for value in values]
    return pa.array(values, field.type)
