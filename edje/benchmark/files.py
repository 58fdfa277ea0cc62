"""Tokens in a store on disk, read warm (in the page cache) or cold (dropped from it)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edje.benchmark.pages import drop_all
from edje.tokens.codec import Codec, make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store


class StoredFile:
    """A token store of random 16-bit tokens, read by row as tokens or as cells."""

    def __init__(self, folder: Path, images: int, tokens: int, width: int):
        self.folder = folder
        write_store(
            folder,
            Fingerprint({"benchmark": f"{images} x {tokens} x {width}"}),
            [f"{number:09d}" for number in range(images)],
            make_codec("bf16", tokens, width),
            1,
            lambda rows: (torch.randn(len(rows), tokens, width), torch.zeros(len(rows), 1)),
        )
        self.store: TokenStore | None = TokenStore.open(folder)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self._opened.num_tokens

    @property
    def cell_bytes(self) -> int:
        """Bytes per image."""
        return self._opened.cell_bytes

    @property
    def codec(self) -> Codec:
        """The codec that unpacks the cells."""
        return self._opened.codec

    def __len__(self) -> int:
        return len(self._opened)

    def read(self, rows: Tensor, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Tokens of the rows, unpacked on the device."""
        return self._opened.read(rows, dtype=dtype, device=device)

    def read_cells(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Cells of the rows, as stored."""
        return self._opened.read_cells(rows, out)

    def forget(self) -> None:
        """Have the system drop the files from memory, so that the next read is from disk.

        Raises:
            EdjeError: some of their pages stay.
        """
        self.store = None  # mapped pages would stay
        drop_all([path for path in self.folder.iterdir() if path.is_file()])
        self.store = TokenStore.open(self.folder)
        self.store.read(torch.empty(0, dtype=torch.long))  # maps the files, reads none

    @property
    def _opened(self) -> TokenStore:
        assert self.store is not None
        return self.store
