"""Memory for large reads, used again once nothing refers to what was read there before."""

import sys
from collections import deque

import numpy as np
from jaxtyping import Int64

_LEAST, _MOST = 4 << 20, 16 << 20  # words: 32 MB, below which the C library does it, to 128 MB
_KEPT = 2  # arrays: a loop still has its last batch when it reads the next
_PAGE = 512  # words
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()  # else counts of references are guesses
# Where cells and their copies begin at the same place of a page, as a store's cells and large new
# arrays do, the processor takes reads and writes for one another's (measured: -10%).
_OFF_THE_PAGE = 128


class ReusedMemory:
    """Arrays of rows to write to; large ones in old memory that nothing refers to any more.

    New memory is slow: the kernel clears it page by page, which takes longer than the copy into
    it, and on a virtual machine many times longer where the host must find it first. An array
    counts as referred to while it, a view of it, or a tensor over it is alive. Two arrays of at
    most 128 MB are kept, as long as this object is.

    Args:
        words: of 8 bytes in a row.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._kept: deque[np.ndarray] = deque(maxlen=_KEPT)

    def is_large(self, count: int) -> bool:
        """Whether so many rows come in old memory, if there is some."""
        return _COUNTED and _LEAST <= count * self._words <= _MOST

    def rows(self, count: int) -> Int64[np.ndarray, "count words"]:
        """Rows of any content, one behind the other. Threads may call it at once."""
        if not self.is_large(count):
            return np.empty((count, self._words), np.int64)
        size = count * self._words
        memory = self._unused(size + 2 * _PAGE)
        start = -memory.ctypes.data // memory.itemsize % _PAGE + _OFF_THE_PAGE
        out = memory[start : start + size].reshape(count, self._words)  # refers to memory
        self._kept.append(memory)
        return out

    def _unused(self, size: int) -> np.ndarray:
        """Kept memory that nothing refers to, taken out, and not of several times the size."""
        for _ in range(len(self._kept)):
            try:
                memory = self._kept.popleft()  # no other thread finds it there
            except IndexError:
                break
            if sys.getrefcount(memory) == _ALONE and size <= len(memory) <= 2 * size:
                return memory
            self._kept.append(memory)
        return np.empty(size, np.int64)


def _references_of_one_variable() -> int:
    memory = deque([np.empty(0)]).popleft()
    return sys.getrefcount(memory)


# Not the same in every Python, and more while a debugger looks on. Fewer only means fewer reuses.
_ALONE = min(_references_of_one_variable(), 2)
