"""What an index knows of its pictures while something is added: enough to tell what is new."""

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from edje.index.given_pictures import read_path
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
    """The rows of a table, by id and by what is in their files.

    `given` are the ids that are being added: a row of another id whose file is gone may have moved.
    """

    def __init__(self, table: ImageTable, given: Collection[str]):
        self.by_id: dict[str, KnownPicture] = {}
        self._by_hash: dict[str, list[KnownPicture]] = {}
        self._given = given
        self._moving = threading.Lock()
        self._moved: set[int] = set()
        for batch in table.scan(COLUMNS):
            for one in known_pictures(batch):
                self.by_id[one.id] = one
                if one.is_readable and one.hash is not None:
                    self._by_hash.setdefault(one.hash, []).append(one)
        self.next_key = 1 + max((one.key for one in self.by_id.values()), default=-1)

    def with_content(self, content: str) -> KnownPicture | None:
        """A row of a readable picture of this hash; None if there is none."""
        return next(iter(self._by_hash.get(content, [])), None)

    def moved(self, content: str) -> KnownPicture | None:
        """A row of this hash whose file is gone, each but once: its picture has moved."""
        with self._moving:
            for one in self._by_hash.get(content, []):
                if one.key not in self._moved and self._is_gone(one):
                    self._moved.add(one.key)
                    return one
        return None

    def _is_gone(self, one: KnownPicture) -> bool:
        return one.id not in self._given and one.path is not None and not os.path.lexists(one.path)


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
