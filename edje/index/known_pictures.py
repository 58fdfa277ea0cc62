"""What an index knows of its pictures during an addition: enough to find what is new."""

import threading
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pyarrow as pa

from edje.errors import EdjeError
from edje.index.given_pictures import (
    NOWHERE,
    GivenPicture,
    absolute,
    is_gone,
    read_path,
    written_path,
)
from edje.index.image_table import HASH, ID, KEY, MODIFIED, PATH, PROBLEM, ROW, SIZE, ImageTable

COLUMNS = (KEY, ID, PATH, SIZE, MODIFIED, HASH, PROBLEM)


@dataclass(frozen=True, slots=True)
class KnownPicture:
    """The facts of a row; `modified` is in nanoseconds."""

    key: int
    id: str
    path: str | None
    size: int | None
    modified: int | None
    hash: str | None
    is_readable: bool


class KnownPictures:
    """Rows of a table, by id and by their files' content.

    `given` is the ids being added, and `leads` the beginnings of other ids being added. A row
    under another id whose file is gone may have moved.
    """

    def __init__(
        self, rows: Iterable[KnownPicture], given: Collection[str], leads: Collection[str] = ()
    ):
        self.by_id: dict[str, KnownPicture] = {}
        self._by_hash: dict[str, list[KnownPicture]] = {}
        self._given, self._leads = given, leads
        self._moving = threading.Lock()
        self._moved: set[int] = set()
        for one in rows:
            self.by_id[one.id] = one
            if one.is_readable and one.hash is not None:
                self._by_hash.setdefault(one.hash, []).append(one)
        self.next_key = 1 + max((one.key for one in self.by_id.values()), default=-1)

    def to_be_read(self, given: Sequence[GivenPicture]) -> list[GivenPicture]:
        """The pictures that may be new or changed, by size and time of their files.

        Raises:
            EdjeError: one of their ids belongs to another picture.
        """
        return [one for one in given if not self._is_unchanged(one)]

    def under(self, lead: str) -> list[KnownPicture]:
        """Rows whose id is this name, or begins with it and a slash."""
        first, end = (bisect_left(self._ids, f"{lead}{mark}") for mark in "/0")  # 0 follows /
        names = [lead, *self._ids[first:end]]
        return [self.by_id[name] for name in names if name in self.by_id]

    def with_content(self, content: str) -> KnownPicture | None:
        """A row of a readable picture with this hash; None if there is none."""
        return next(iter(self._with_hash(content)), None)

    def moved(self, content: str) -> KnownPicture | None:
        """A row with this hash whose file is gone: its picture has moved; gives each row once."""
        with self._moving:
            for one in self._with_hash(content):
                if one.key not in self._moved and self._is_gone(one):
                    self._moved.add(one.key)
                    return one
        return None

    @cached_property
    def _ids(self) -> list[str]:
        return sorted(self.by_id)

    def gone(self) -> frozenset[str]:
        """Hashes of the rows that `moved` may find."""
        return frozenset(h for h, ones in self._by_hash.items() if any(map(self._is_gone, ones)))

    def elsewhere(self, paths: Collection[str | None]) -> list[KnownPicture]:
        """Rows of readable pictures that are or are in these files, under ids not being added."""
        found = (one for one in self.by_id.values() if one.is_readable and one.path in paths)
        return [one for one in found if one.path is not None and not self._is_given(one)]

    def _with_hash(self, content: str) -> Sequence[KnownPicture]:
        return self._by_hash.get(content, ())

    def _is_given(self, one: KnownPicture) -> bool:
        if one.id in self._given:
            return True
        parents = PurePosixPath(one.id).parents if self._leads else ()
        return any(str(parent) in self._leads for parent in parents)

    def _is_gone(self, one: KnownPicture) -> bool:
        return one.path is not None and not self._is_given(one) and is_gone(one.path)

    def _is_unchanged(self, given: GivenPicture) -> bool:
        known = self.by_id.get(given.id)
        if known is None or (given.file is None and known.path is None):
            return False
        if is_another(given, known):
            raise EdjeError(
                f"{given.file or 'a picture without a file'} would have the id {given.id!r}, which "
                f"{known.path or 'one without a file'} has. Give a prefix: --prefix, or "
                'index.add(source, prefix="…").'
            )
        if given.shard is not None:
            now = (given.shard.size, given.shard.modified)
        else:
            assert given.path is not None
            try:
                status = Path(given.path).stat()
            except OSError:
                return False
            now = (status.st_size, status.st_mtime_ns)
        return now == (known.size, known.modified) and _is_one_place(given.file, known.path)


class LookedUpPictures(KnownPictures):
    """Rows of a large table, looked up when a small addition needs them.

    `under` and `gone` need all rows: this isn't for shards or Ray.
    """

    def __init__(self, table: ImageTable, given: Collection[str]):
        super().__init__(known_among(table, ID, given), given)
        self.next_key = table.next_key
        own = ImageTable.open(table.folder, table.version)
        assert own is not None
        self._table = own  # as a table is for one thread at a time
        self._looked_up: dict[str, list[KnownPicture]] = {}  # by their content
        self._looking_up = threading.Lock()

    def elsewhere(self, paths: Collection[str | None]) -> list[KnownPicture]:
        """Rows of readable pictures that are these files, under ids not being added."""
        written = [written_path(path) for path in paths if path is not None]
        found = known_among(self._table, PATH, written)
        return [one for one in found if one.is_readable and not self._is_given(one)]

    def _with_hash(self, content: str) -> Sequence[KnownPicture]:
        with self._looking_up:
            if content not in self._looked_up:
                found = known_among(self._table, HASH, [content])
                self._looked_up[content] = [one for one in found if one.is_readable]
            return self._looked_up[content]


def _is_one_place(one: str | None, other: str | None) -> bool:
    """Whether two paths of files are one, also by way of a folder that is a link."""
    if one is None or other is None:
        return one is other
    return one == other or absolute(one) == absolute(other)


def is_another(given: GivenPicture, known: KnownPicture) -> bool:
    """Whether a picture's id already belongs to another picture that still exists."""
    if given.file is None or known.path is None:
        return given.file != known.path
    if given.file == known.path:
        return False
    try:
        return not Path(given.file).samefile(known.path)
    except OSError as error:  # a disk that fails may have the other picture
        return error.errno not in NOWHERE


def known_in(table: ImageTable) -> Iterator[KnownPicture]:
    """All rows of a table.

    Raises:
        EdjeError: they can't be read.
    """
    for batch in table.scan(COLUMNS):
        yield from known_pictures(batch)


def known_among(table: ImageTable, column: str, texts: Collection[str]) -> Iterator[KnownPicture]:
    """The rows of which a column has one of some texts.

    Raises:
        EdjeError: they can't be read.
    """
    for batch in table.among(column, list(texts), COLUMNS):
        yield from known_pictures(batch)


def known_pictures(batch: pa.RecordBatch) -> list[KnownPicture]:
    """The rows of a batch of `COLUMNS`."""
    columns = {name: batch.column(name) for name in batch.schema.names if name != ROW}
    columns[MODIFIED] = columns[MODIFIED].cast(pa.int64())
    columns[PROBLEM] = columns[PROBLEM].is_null()
    return [
        KnownPicture(key, name, read_path(path), *facts)
        for key, name, path, *facts in zip(
            *(columns[name].to_pylist() for name in COLUMNS), strict=True
        )
    ]
