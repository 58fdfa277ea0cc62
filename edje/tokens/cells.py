"""Visual tokens by row, packed in cells: in memory, in a file, or in a store."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from edje.tokens.codec import Codec
from edje.tokens.spanned_map import WORD, SpannedMap


class CellSource(Protocol):
    """Returns cells by row, without their codec."""

    def read_cells(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Copies of the cells of rows, in order; written to `out` if given."""
        ...


@runtime_checkable
class CellReader(CellSource, Protocol):
    """Returns cells by row and has the codec to unpack them; a `TokenStore` is one."""

    @property
    def codec(self) -> Codec:
        """The codec that unpacks the cells."""
        ...


@dataclass(frozen=True)
class TokenCells:
    """The visual tokens of some images, packed; image i's cell is row `rows[i]` of the source.

    Pickled, a file or a store is only its path, not its content.
    """

    codec: Codec
    source: CellSource
    rows: Int64[Tensor, "images"]

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.codec.num_tokens

    def __len__(self) -> int:
        return len(self.rows)

    def permuted(self, order: Int64[Tensor, "images"]) -> "TokenCells":
        """Image i with the tokens of image `order[i]`."""
        return TokenCells(self.codec, self.source, self.rows[order])

    def read_cells(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Copies of the cells of images, in order.

        Raises:
            IndexError: there is no such image.
        """
        return self.source.read_cells(self.rows.numpy()[rows], out)

    def read(
        self,
        rows: Int64[Tensor, "rows"],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of images, in order, unpacked on the device."""
        cells = torch.from_numpy(self.read_cells(rows.cpu().numpy()))
        return self.codec.decode(cells, dtype, device)


class CellMemory:
    """Cells in this process's memory."""

    def __init__(self, cells: UInt8[Tensor, "rows bytes"]):
        self.cells = cells

    def read_cells(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Copies of the cells of rows, in order."""
        index, wide = torch.from_numpy(rows), in_words(self.cells)
        if out is None:
            return torch.index_select(wide, 0, index).view(torch.uint8).numpy()
        torch.index_select(wide, 0, index, out=torch.from_numpy(out).view(wide.dtype))
        return out


class CellFile:
    """Consecutive cells in a memory-mapped file, in the system's memory, not the process's.

    It may be sent to other processes, which map the file themselves.
    """

    def __init__(self, path: Path, cell_bytes: int):
        self.path = path
        self.cell_bytes = cell_bytes

    def read_cells(
        self, rows: Int64[np.ndarray, "rows"], out: UInt8[np.ndarray, "rows bytes"] | None = None
    ) -> UInt8[np.ndarray, "rows bytes"]:
        """Copies of the cells of rows, in order."""
        return self._map.gather(rows, out)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "cell_bytes": self.cell_bytes}

    @cached_property
    def _map(self) -> SpannedMap:
        size = self.path.stat().st_size
        rows = size // self.cell_bytes
        return SpannedMap([(self.path, size)], 0, self.cell_bytes, rows, rows)


def in_words(cells: UInt8[Tensor, "rows bytes"]) -> Tensor:
    """The same memory as words, which copy three times as fast, if a cell is whole words."""
    return cells.view(torch.int64) if cells.shape[1] % WORD == 0 else cells
