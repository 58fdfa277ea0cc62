"""One shard: an Arrow IPC stream with one record batch, one fixed-width cell per image."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt8

from edje.durable import temporary_path
from edje.errors import EdjeError
from edje.tokens.checksum import RunningChecksum
from edje.tokens.manifest import Shard

COLUMNS = ("tokens", "image_id", "features")
_PAGE = 4096
_BLOCK = 2 << 20  # written at once, so the kernel keeps it as one page: faster random reads


class ShardFile:
    """A shard that is being written: cells go to the file as they come, then ids and features.

    Equal input gives equal bytes, however the cells are split. A temporary file beside `path`
    gets that name when it is finished; `abandon` removes it.

    Raises:
        OSError: from all methods, if the folder can't be written.
    """

    def __init__(
        self, path: Path, image_ids: Sequence[str], cell_bytes: int, feature_width: int
    ) -> None:
        self._path = path
        self._image_ids = image_ids
        self._cell_bytes = cell_bytes
        self._padding = ""
        features = np.zeros((len(image_ids), feature_width), np.float32)
        # A cell of whole pages touches as few pages as possible, which makes random reads faster.
        self._padding = " " * (-len(self._around_cells(features)[0]) % _PAGE)
        self._head, _ = self._around_cells(features)
        self._checksum = RunningChecksum()
        self._bytes = 0
        self._rest = bytearray()  # not written yet: less than a block
        self._temporary = temporary_path(path)
        self._file = self._temporary.open("wb", buffering=0)
        self._append(self._head)

    @property
    def rows(self) -> int:
        """Number of cells appended so far."""
        return (self._bytes - len(self._head)) // self._cell_bytes

    def append(self, cells: UInt8[np.ndarray, "images bytes"]) -> None:
        """Write the next cells."""
        self._append(np.ascontiguousarray(cells).reshape(-1).data)

    def finish(self, features: Float32[np.ndarray, "images width"]) -> Shard:
        """Write the rest, wait until all is on disk, rename the file, return its description."""
        assert self.rows == len(self._image_ids), "a shard is finished after its last cell"
        self._append(self._around_cells(features)[1])
        self._write(self._rest)
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        name, rows, cells_at = self._path.name, len(self._image_ids), len(self._head)
        return Shard(name, rows, self._bytes, cells_at, str(self._checksum))

    def abandon(self) -> None:
        """Remove the temporary file, if the shard isn't finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _append(self, content: bytes | memoryview) -> None:
        self._checksum.update(content)
        before, self._bytes = self._bytes, self._bytes + len(content)
        ends = self._bytes // _BLOCK * _BLOCK - before  # end of the last whole block in the content
        if ends > 0:
            self._write(self._rest, content[:ends])
            self._rest.clear()
        self._rest += content[max(ends, 0) :]

    def _write(self, *pieces: bytes | bytearray | memoryview) -> None:
        left = [memoryview(piece) for piece in pieces]
        while sum(map(len, left)):
            done = os.writev(self._file.fileno(), left)
            for number, piece in enumerate(left):
                left[number] = piece[done:]
                done -= min(done, len(piece))

    def _around_cells(self, features: np.ndarray) -> tuple[bytes, bytes]:
        """The Arrow stream's bytes before and after its cells; the cells are not read."""
        cells = np.empty((len(self._image_ids), self._cell_bytes), np.uint8)  # takes no memory
        batch = _record_batch(self._image_ids, features, cells)
        sink = _AroundCells(cells.ctypes.data)
        batch = batch.replace_schema_metadata({"padding": self._padding})
        with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)
        return bytes(sink.head), bytes(sink.tail)


def open_shard(path: Path) -> tuple[pa.RecordBatch, int]:
    """The record batch of a shard over a memory map, and the byte offset of its cells.

    Raises:
        EdjeError: the file is not one whole shard.
    """
    try:
        with pa.memory_map(str(path)) as source:
            batch, cells_at = read_stream(source.read_buffer())
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise EdjeError(f"{path} is not a readable Arrow stream ({error}).") from error
    if tuple(batch.schema.names) != COLUMNS:
        raise EdjeError(f"{path} has the columns {batch.schema.names}, expected {COLUMNS}.")
    return batch, cells_at


def shard_features(batch: pa.RecordBatch) -> Float32[np.ndarray, "images width"]:
    """The column of pooled features as an array over the map."""
    column = batch.column("features")
    return column.values.to_numpy().reshape(len(column), column.type.list_size)


def _record_batch(
    image_ids: Sequence[str], features: np.ndarray, cells: np.ndarray
) -> pa.RecordBatch:
    values = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
    columns = [
        pa.Array.from_buffers(
            pa.binary(cells.shape[1]),
            len(cells),
            [None, pa.py_buffer(np.ascontiguousarray(cells, np.uint8))],
        ),
        pa.array(image_ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
    ]
    return pa.record_batch(columns, names=list(COLUMNS))


class _AroundCells(io.RawIOBase):
    """Keeps the bytes written before and after the buffer at an address."""

    def __init__(self, address: int) -> None:
        super().__init__()
        self.head, self.tail = bytearray(), bytearray()
        self._address = address
        self._kept = self.head

    def writable(self) -> bool:
        """Required by Arrow."""
        return True

    def write(self, content: Any) -> int:
        """Take a piece; Arrow passes buffers without a copy."""
        piece = pa.py_buffer(content)
        if piece.address == self._address:
            self._kept = self.tail
        else:
            self._kept += piece
        return piece.size


def read_stream(content: pa.Buffer) -> tuple[pa.RecordBatch, int]:
    """The record batch in a shard's bytes, without a copy, and the byte offset of its cells."""
    batch = pa.ipc.open_stream(pa.BufferReader(content)).read_next_batch()
    return batch, batch.column(0).buffers()[1].address - content.address
