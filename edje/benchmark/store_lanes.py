"""Ways to read random cells of a file or store into a tensor; each can be opened and closed."""

import mmap
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edje.tokens.store import TokenStore

STORED = torch.bfloat16  # what the measured store's codec stores


class Lane(ABC):
    """Reads rows of `num_images` × `tokens` × `width` numbers into a tensor of their dtype."""

    def __init__(self, path: Path, shape: tuple[int, int, int]):
        self.path = path
        self.shape = shape

    @abstractmethod
    def open(self) -> None:
        """Get ready to read; touches no cell."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Tokens of the rows, copied."""

    @abstractmethod
    def close(self) -> None:
        """Release maps and files."""


class StoreLane(Lane):
    """Ours; the path is a store's folder."""

    store: TokenStore | None = None

    def open(self) -> None:
        """Open the store and map its shards."""
        self.store = TokenStore.open(self.path)
        self.store.read_cells(np.empty(0, np.int64))

    def read(self, rows: Tensor) -> Tensor:
        """Read with the store's public method."""
        assert self.store is not None
        return self.store.read(rows, dtype=STORED)

    def close(self) -> None:
        """Unmap."""
        self.store = None


class MemoryMapLane(Lane):
    """`np.memmap` of one file, indexed by rows."""

    array: Any = None

    def open(self) -> None:
        """Map the file."""
        self.array = np.memmap(self.path, np.int16, "r", shape=self.shape)

    def read(self, rows: Tensor) -> Tensor:
        """Read with NumPy's fancy indexing."""
        return torch.from_numpy(self.array[rows.numpy()]).view(STORED)

    def close(self) -> None:
        """Unmap."""
        self.array = None


class RandomMapLane(MemoryMapLane):
    """A memory map without the kernel's read-ahead, which random rows don't need."""

    def open(self) -> None:
        """Map the file and advise the kernel of random reads."""
        with self.path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        content.madvise(mmap.MADV_RANDOM)
        self.array = np.frombuffer(content, np.int16).reshape(self.shape)


class PreadLane(Lane):
    """`preadv` of one file, rows divided among threads."""

    descriptor = -1

    def __init__(self, path: Path, shape: tuple[int, int, int], threads: int):
        super().__init__(path, shape)
        self.threads = threads

    def open(self) -> None:
        """Open the file, start the threads."""
        self.descriptor = os.open(self.path, os.O_RDONLY)
        self.pool = ThreadPoolExecutor(self.threads)

    def read(self, rows: Tensor) -> Tensor:
        """Every thread reads each `threads`-th row into its place."""
        out = np.empty((len(rows), *self.shape[1:]), np.int16)
        cells = out.view(np.uint8).reshape(len(rows), -1)
        numbers = rows.tolist()

        def read_some(first: int) -> None:
            for place in range(first, len(numbers), self.threads):
                os.preadv(self.descriptor, [cells[place]], numbers[place] * cells.shape[1])

        list(self.pool.map(read_some, range(self.threads)))
        return torch.from_numpy(out).view(STORED)

    def close(self) -> None:
        """Close the file, end the threads."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.pool.shutdown()
            self.descriptor = -1
