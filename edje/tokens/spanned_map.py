"""The shards of a store as one matrix of cells in memory, so that one gather reads all of them.

It isn't one `np.memmap` per shard: that would keep a file open per shard, and one gather makes
queries and batches more than 3% faster (experiments/store/README.md).
"""

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from edje.tokens.read_ahead import read_ahead, waits_for_disk
from edje.tokens.reused_memory import ReusedMemory

_HUGE_PAGE = 2 << 20  # files aligned to one are mapped in larger pieces (measured: +30%)
_LARGEST_RANGE = 1 << 44  # of addresses, which are free; a process has 2^47
_UNKNOWN = np.iinfo(np.int64).max  # beyond every cell, so taking it fails
WORD = 8  # bytes copied at once
_WATCHED = 16  # one read in 16 is checked: a check takes as long as copying a cell
_PROCESS = os.getpid()  # a forked process lacks torch's threads and would hang
_MAP_FIXED = 0x10  # the same on Linux and macOS; Python's mmap module doesn't offer it
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class SpannedMap:
    """Read-only maps of a store's files, in sequence in one reserved range of addresses.

    The files start a whole number of cells apart, so that all cells are rows of one matrix.
    Between two files there are unmapped rows that are never requested. A gather is then a single
    call, shared among torch's threads. No file stays open, whatever their number.

    Args:
        files: path and size in bytes of each, in order.
        cells_at: byte offset of the first cell in every file.
        cell_bytes: size of a cell.
        file_rows: cells per file; the last may have fewer.
        rows: cells of all files.

    Raises:
        OSError: a file can't be mapped.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, int]],
        cells_at: int,
        cell_bytes: int,
        file_rows: int,
        rows: int,
    ) -> None:
        largest = max((size for _, size in files), default=0)
        alignment, pitch = _layout(largest, cell_bytes, len(files))
        reserved = pitch * len(files) + alignment
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _map(None, reserved, _PROT_NONE, flags, -1)
        self._unmap = weakref.finalize(self, _libc.munmap, address, reserved)
        base = -(-address // alignment) * alignment
        for number, (path, size) in enumerate(files):
            start = base + number * pitch
            descriptor = os.open(path, os.O_RDONLY)
            try:
                _map(start, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
            finally:
                os.close(descriptor)
        count = max(pitch * len(files) - cells_at, 0) // cell_bytes
        flat = (ctypes.c_uint8 * (count * cell_bytes)).from_address(base + cells_at)
        self._cells = np.ctypeslib.as_array(flat).reshape(count, cell_bytes)
        aligned = (cells_at | cell_bytes) % WORD == 0
        self._words = torch.from_numpy(self._cells.view(np.int64)) if aligned else None
        self._file_rows, self._file_cells = file_rows, pitch // cell_bytes
        self._known = np.full(rows, _UNKNOWN)  # the cell of each row that was read
        self._reads = self._waits = 0
        self._memory = ReusedMemory(cell_bytes // WORD)

    def gather(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Copies of the cells of rows, in order; read ahead if they are not in memory.

        They are written to `out` if given.

        Requesting a cell from the kernel costs as much as copying it. So a cell that was read once
        is assumed to be in memory. If reads of such cells have waited for the disk about once per
        64 cells of the store, many were evicted. Then all are requested again, which costs less
        than waiting.

        Raises:
            IndexError: a row is outside the files.
        """
        try:
            # numpy would count negative rows from the end. argmin takes a third of min's time.
            if len(rows) and rows.item(rows.argmin()) < 0:
                raise IndexError
            if self._reads % _WATCHED:
                self._reads += 1
                return self._copies(self._known.take(rows), out)
            return self._watched_read(rows, out)
        except IndexError:  # a row is not known, or outside
            pass  # the error keeps references: leave this block first
        return self._first_read(rows, out)

    def _watched_read(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """A read of known rows that checks whether it waits for the disk."""
        before = waits_for_disk()
        out = self._copies(self._known.take(rows), out)
        self._reads += 1
        self._waits += waits_for_disk() - before
        if self._waits * _WATCHED * 64 > len(self._known):
            self._waits = 0
            self._known[:] = _UNKNOWN
        return out

    def _first_read(self, rows: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """A read of rows of which some must be requested."""
        count = len(self._known)
        if rows.min() < 0 or rows.max() >= count:
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of a store of {count}")
        cells = rows // self._file_rows * self._file_cells + rows % self._file_rows
        new = cells[self._known[rows] == _UNKNOWN].tolist()
        read_ahead(self._cells.ctypes.data, self._cells.shape[1], new)
        self._known[rows] = cells
        return self._copies(cells, out)

    def _copies(self, cells: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Copies of cells; an unknown cell raises IndexError."""
        count = len(cells)
        few = torch.get_num_threads() == 1 and not self._memory.is_large(count)
        if self._words is None or few or os.getpid() != _PROCESS:
            return self._cells.take(cells, axis=0, out=out)  # in one thread, 3% faster
        # numpy allocates huge pages, torch doesn't. As bytes, torch would copy at a third of the
        # speed.
        words = self._memory.rows(count) if out is None else out.view(np.int64)
        torch.index_select(self._words, 0, torch.from_numpy(cells), out=torch.from_numpy(words))
        return words.view(np.uint8)


def _layout(file_bytes: int, cell_bytes: int, files: int) -> tuple[int, int]:
    """Alignment of the files, and the distance between them in bytes, a whole number of cells."""
    for alignment in (_HUGE_PAGE, mmap.PAGESIZE):
        unit = math.lcm(alignment, cell_bytes)
        pitch = -(-file_bytes // unit) * unit
        if pitch * files <= _LARGEST_RANGE:
            break
    return alignment, pitch


def _map(address: int | None, length: int, protection: int, flags: int, descriptor: int) -> int:
    result = _libc.mmap(address, length, protection, flags, descriptor, 0)
    if result is None or result == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {length} bytes: {os.strerror(code)}")
    return result
