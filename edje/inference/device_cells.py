"""Token cells in the memory of the device that scores them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edje.inference.batch_size import free_bytes
from edje.inference.pinned import sent
from edje.inference.transfer import VisualTokens
from edje.tokens.cells import TokenCells, in_words
from edje.tokens.codec import Codec

SHARE_OF_DEVICE = 0.25  # of a GPU's free memory, available to cells
ROWS_AT_ONCE = 1024  # copied at a time


def near(visual: VisualTokens, device: torch.device) -> VisualTokens:
    """The cells in a GPU's own memory, if they take at most a quarter of its free memory.

    Otherwise, and for a CPU, the input itself.
    """
    if device.type != "cuda" or not isinstance(visual, TokenCells):
        return visual
    size = len(visual) * visual.codec.cell_bytes
    fits = size <= SHARE_OF_DEVICE * free_bytes(device)
    return CellsOnDevice.copied(visual, device) if fits else visual


class CellsOnDevice:
    """Cells in a device's memory, unpacked there when they are read; a `TokenReader`."""

    def __init__(self, codec: Codec, cells: Tensor):
        self.codec = codec
        self.cells = cells

    @classmethod
    def copied(cls, cells: TokenCells, device: torch.device) -> "CellsOnDevice":
        """A copy of all cells on the device."""
        there = torch.empty((len(cells), cells.codec.cell_bytes), dtype=torch.uint8, device=device)
        for rows in torch.arange(len(cells)).split(ROWS_AT_ONCE):
            part = torch.from_numpy(cells.read_cells(rows.numpy()))
            there[int(rows[0]) : int(rows[-1]) + 1].copy_(part)
        return cls(cells.codec, there)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.codec.num_tokens

    def __len__(self) -> int:
        return len(self.cells)

    def read(
        self, rows: Int[Tensor, "rows"], *, dtype: torch.dtype, device: torch.device | str
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of the rows."""
        chosen = in_words(self.cells).index_select(0, sent(rows, self.cells.device))
        return self.codec.decode(chosen.view(torch.uint8), dtype, device)
