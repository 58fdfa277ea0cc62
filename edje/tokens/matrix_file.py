"""A float32 matrix in a file: memory-mapped, and gathered without staying in memory."""

import mmap
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

CHUNK_BYTES = 64 << 20  # read, written or projected at once


class MappedMatrix:
    """A matrix in a file, row by row from an offset; the file isn't copied.

    It stays readable if its file is removed.

    Args:
        offset: byte at which the matrix starts, a multiple of 4.
        rows: number of rows.
        width: numbers in a row.

    Raises:
        OSError: the file can't be mapped.
        ValueError: the file is too short.
    """

    def __init__(self, path: Path, offset: int, rows: int, width: int) -> None:
        self.shape = (rows, width)
        count = rows * width
        self._map: mmap.mmap | None = None
        if count == 0:
            self.whole: Float32[Tensor, "rows width"] = torch.empty(rows, width)
            return
        with path.open("rb") as file:  # copy on write, because torch needs writable memory
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(self._map, dtype=torch.float32, count=count, offset=offset)
        self.whole = flat.view(rows, width)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Int64[Tensor, "some"]) -> Float32[Tensor, "some width"]:
        """Copies of rows; their pages then no longer count as this process's memory."""
        copies = self.whole[rows]
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        return copies


def rows_at_once(width: int) -> int:
    """The number of rows in a chunk."""
    return max(CHUNK_BYTES // (4 * width), 1)
