"""One shard: an Arrow IPC stream with one record batch, one fixed-width cell per image."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, UInt8

from edje.errors import EdjeError
from edje.tokens.checksum import checksum_of
from edje.tokens.durable import force_to_disk, new_file
from edje.tokens.manifest import Shard

COLUMNS = ("tokens", "image_id", "features")
_PAGE = 4096


def write_shard(
    path: Path,
    image_ids: Sequence[str],
    features: Float32[np.ndarray, "images width"],
    cells: UInt8[np.ndarray, "images bytes"],
) -> Shard:
    """Write a shard by rename, its content on disk, and describe it.

    Equal input gives equal bytes.
    """
    batch = _page_aligned(_record_batch(image_ids, features, cells))
    with new_file(path) as temporary, ThreadPoolExecutor(1) as beside:
        with pa.OSFile(str(temporary), "wb") as sink:
            _write_stream(batch, sink)
        checksum = beside.submit(
            checksum_of, temporary
        )  # from the page cache, while the disk works
        force_to_disk(temporary)
        size = temporary.stat().st_size
        cells_at = open_shard(temporary)[1]
        return Shard(path.name, batch.num_rows, size, cells_at, checksum.result())


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


def _page_aligned(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with so much padding in its schema's metadata that its cells begin a page.

    A cell of whole pages then touches no page more than it must, which a random read feels.
    """
    unpadded = batch.replace_schema_metadata({"padding": ""})
    sink = pa.BufferOutputStream()
    _write_stream(unpadded.slice(0, 1), sink)  # the header is as long for one row
    length = -read_stream(sink.getvalue())[1] % _PAGE
    return batch.replace_schema_metadata({"padding": " " * length})


def _write_stream(batch: pa.RecordBatch, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)


def read_stream(content: pa.Buffer) -> tuple[pa.RecordBatch, int]:
    """The record batch in a shard's bytes, without a copy, and the byte offset of its cells."""
    batch = pa.ipc.open_stream(pa.BufferReader(content)).read_next_batch()
    return batch, batch.column(0).buffers()[1].address - content.address
