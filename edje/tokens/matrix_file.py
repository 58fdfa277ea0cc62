"""A matrix of float32 in a file: mapped, and gathered without staying in memory."""

import mmap
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

CHUNK_BYTES = 64 << 20  # that are read, written or projected at once


class MappedMatrix:
    """A matrix that lies in a file from a byte on, row by row; the file isn't copied.

    It stays readable when its file is removed.

    Args:
        offset: byte at which it begins, a multiple of 4.
        rows: how many there are.
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
        with path.open("rb") as file:  # as copy on write, for torch wants what can be written
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(self._map, dtype=torch.float32, count=count, offset=offset)
        self.whole = flat.view(rows, width)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: Int64[Tensor, "some"]) -> Float32[Tensor, "some width"]:
        """Copies of rows; what had to be mapped for them no longer counts as this process's."""
        copies = self.whole[rows]
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)
        return copies


def rows_at_once(width: int) -> int:
    """How many rows make a chunk."""
    return max(CHUNK_BYTES // (4 * width), 1)
