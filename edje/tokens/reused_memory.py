"""Memory for large reads, reused once nothing refers to the earlier content."""

import sys
from collections import deque

import numpy as np
from jaxtyping import Int64

_LEAST, _MOST = 4 << 20, 16 << 20  # words: 32 MB (below, the C library does it) to 128 MB
_KEPT = 2  # arrays: a loop still holds its last batch while it reads the next
_PAGE = 512  # words
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()  # otherwise reference counts are guesses
# If cells and their copies start at the same offset in a page, as a store's cells and large new
# arrays do, the processor confuses reads and writes (measured: -10%).
_OFF_THE_PAGE = 128


class ReusedMemory:
    """Arrays of rows to write to; large ones reuse memory that nothing refers to any more.

    New memory is slow. The kernel clears it page by page, which takes longer than the copy into
    it, and much longer on a virtual machine whose host must find it first. An array counts as
    referred to while it, a view of it, or a tensor over it is alive. Two arrays of at most 128 MB
    are kept, as long as this object lives.

    Args:
        words: words of 8 bytes per row.
    """

    def __init__(self, words: int) -> None:
        self._words = words
        self._kept: deque[np.ndarray] = deque(maxlen=_KEPT)

    def is_large(self, count: int) -> bool:
        """Whether this number of rows uses old memory, if there is some."""
        return _COUNTED and _LEAST <= count * self._words <= _MOST

    def rows(self, count: int) -> Int64[np.ndarray, "count words"]:
        """Consecutive rows with any content. Threads may call it at once."""
        if not self.is_large(count):
            return np.empty((count, self._words), np.int64)
        size = count * self._words
        memory = self._unused(size + 2 * _PAGE)
        start = -memory.ctypes.data // memory.itemsize % _PAGE + _OFF_THE_PAGE
        out = memory[start : start + size].reshape(count, self._words)  # refers to memory
        self._kept.append(memory)
        return out

    def _unused(self, size: int) -> np.ndarray:
        """Memory of this size: kept memory that nothing refers to, at most twice as big, or new."""
        _, alone = _taken(deque([np.array(())]))
        for _ in range(len(self._kept)):
            try:
                memory, references = _taken(self._kept)  # no other thread finds it there
            except IndexError:
                break
            if references == alone and size <= len(memory) <= 2 * size:
                return memory
            self._kept.append(memory)
        return np.empty(size, np.int64)


def _taken(kept: deque[np.ndarray]) -> tuple[np.ndarray, int]:
    """The first array, taken out, and the number of references to it.

    How many there are to an array that nothing else refers to depends on the Python, a debugger and
    the code that counts, so that number is asked here, too.
    """
    memory = kept.popleft()
    return memory, sys.getrefcount(memory)
