"""A store's files at an fsspec URL, read by ranges, several at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
from fsspec.implementations.cached import CachingFileSystem
from jaxtyping import Int64, UInt8

from edje.errors import EdjeError
from edje.tokens.manifest import Manifest, Shard
from edje.tokens.shard import read_stream

_THREADS = 16
_LARGEST_READ = 8 << 20  # bytes; up to this, neighbouring cells are read together
EXTRAS = {"s3": "s3", "s3a": "s3"}  # extras of edje, by the URL scheme that needs them
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at any URL that fsspec knows: `s3://`, `http://`, `hf://`, `memory://`, …

    It holds only the URL, so it can be sent to other processes, forked or spawned; each makes its
    own connection.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def read_bytes(self, name: str) -> bytes:
        """A whole small file.

        Raises:
            FileNotFoundError: there is none.
            EdjeError: the URL can't be read; also for the other methods.
        """
        with self._reaching() as (files, path):
            return files.cat_file(f"{path}/{name}")

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Sizes in bytes of the files that exist."""

        def size(name: str) -> int | None:
            try:
                return files.info(f"{path}/{name}")["size"]
            except FileNotFoundError:
                return None

        with self._reaching() as (files, path):
            found = dict(zip(names, _in_threads(size, names), strict=True))
        return {name: size for name, size in found.items() if size is not None}

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Pieces of files, each given as name, start and end in bytes."""

        def read(piece: tuple[str, int, int]) -> bytes:
            name, start, end = piece
            content = files.cat_file(f"{path}/{name}", start=start, end=end)
            if len(content) != end - start:
                raise EdjeError(
                    f"{self.url}/{name}: requested {end - start:,} bytes, got {len(content):,}. "
                    "The server doesn't support ranges of files: copy the store to a local folder, "
                    f"or let fsspec copy it with simplecache::{self.url}."
                )
            return content

        with self._reaching() as (files, path):
            if isinstance(files, CachingFileSystem):  # its copy must be complete before it is read
                return [read(piece) for piece in ranges]
            return _in_threads(read, ranges)

    @contextmanager
    def _reaching(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it; failures become errors that name the URL."""
        try:
            files, path = fsspec.core.url_to_fs(self.url)  # one per process, by fsspec
            yield files, path.rstrip("/")
        except (FileNotFoundError, EdjeError):
            raise
        except ImportError as error:
            extra = EXTRAS.get(self.url.partition("://")[0])
            raise EdjeError(
                f"{self.url} needs a Python package that is not installed: {error}."
                + (f" Install it: pip install 'edje[{extra}]'." if extra else "")
            ) from error
        except Exception as error:  # every file system has its own exceptions
            raise EdjeError(
                f"{self.url} can't be read ({type(error).__name__}: {error}). Check the address, "
                "the network and your access to it."
            ) from error


class RemoteCells:
    """Gathers cells of a store's shards in a remote folder."""

    def __init__(self, folder: RemoteFolder, manifest: Manifest, cell_bytes: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._cell_bytes = cell_bytes

    def gather(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Cells of rows, in order; neighbours are one range, and repeats are read once.

        Raises:
            IndexError: a row is outside the store.
            EdjeError: the URL can't be read.
        """
        count = self._manifest.num_images
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of a store of {count}")
        distinct, place = np.unique(rows, return_inverse=True)
        pieces = self._folder.read_ranges([self._range(run) for run in self._runs(distinct)])
        cells = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, self._cell_bytes)
        return cells.take(place, axis=0, out=out)

    def _runs(self, rows: np.ndarray) -> list[np.ndarray]:
        """Sorted rows, split where one range can't hold them."""
        most = max(_LARGEST_READ // self._cell_bytes, 1)
        shards = rows // self._manifest.shard_rows
        new = (np.diff(rows) != 1) | (np.diff(shards) != 0)
        runs = np.split(rows, np.flatnonzero(new) + 1) if len(rows) else []
        return [run[start : start + most] for run in runs for start in range(0, len(run), most)]

    def _range(self, run: np.ndarray) -> tuple[str, int, int]:
        """The file and byte range of neighbouring rows."""
        index, first = divmod(int(run[0]), self._manifest.shard_rows)
        shard = self._manifest.shards[index]
        start = shard.cells_at + first * self._cell_bytes
        return shard.file, start, start + len(run) * self._cell_bytes


def open_remote_shards(
    folder: RemoteFolder, shards: Sequence[Shard], cell_bytes: int
) -> list[pa.RecordBatch]:
    """The record batches of shards with ids and features; their cells are zeros."""
    ends = [shard.cells_at + shard.rows * cell_bytes for shard in shards]
    heads = folder.read_ranges([(shard.file, 0, shard.cells_at) for shard in shards])
    tails = folder.read_ranges(
        [(shard.file, end, shard.bytes) for shard, end in zip(shards, ends, strict=True)]
    )
    batches = []
    for shard, end, head, tail in zip(shards, ends, heads, tails, strict=True):
        content = np.zeros(shard.bytes, np.uint8)  # untouched pages take no memory
        content[: len(head)] = np.frombuffer(head, np.uint8)
        content[end:] = np.frombuffer(tail, np.uint8)
        batches.append(read_stream(pa.py_buffer(content))[0])
    return batches


def _in_threads(call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results in order. The threads end with the call, so no fork can lose them."""
    with ThreadPoolExecutor(max(min(_THREADS, len(items)), 1)) as pool:
        return list(pool.map(call, items))
