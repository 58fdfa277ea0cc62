"""Several files as one range of memory, so that one gather reads rows of all of them."""

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

_SLOT = 2 << 20  # a huge page: files that begin one are mapped in larger pieces (measured +20%)
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
    """Read-only maps of files, one behind the other in one reserved range of addresses.

    A gather over separate maps has to sort rows by file and to copy each twice, or to loop
    over rows in Python; over one range it is a single numpy gather, as fast as on one file.
    No file stays open, whatever their number.

    Raises:
        OSError: a file can't be mapped.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], length: int) -> None:
        """Map files, each given with its size in bytes, to gather pieces of `length` bytes."""
        extents = [-(-size // _SLOT) * _SLOT for _, size in files]
        self.starts = np.cumsum([0, *extents[:-1]])  # offset of each file in the range
        total = sum(extents)
        reserved = total + _SLOT
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _map(None, reserved, _PROT_NONE, flags, -1)
        self._unmap = weakref.finalize(self, _libc.munmap, address, reserved)
        base = -(-address // _SLOT) * _SLOT
        for (path, size), start in zip(files, self.starts.tolist(), strict=True):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                _map(base + start, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor)
            finally:
                os.close(descriptor)
        flat = np.ctypeslib.as_array((ctypes.c_uint8 * total).from_address(base))
        self._windows = np.lib.stride_tricks.sliding_window_view(flat, length)

    def gather(self, offsets: Int64[np.ndarray, "pieces"]) -> UInt8[np.ndarray, "pieces length"]:
        """Copies of the pieces at offsets, which the caller has checked."""
        return self._windows[offsets]


def _map(address: int | None, length: int, protection: int, flags: int, descriptor: int) -> int:
    result = _libc.mmap(address, length, protection, flags, descriptor, 0)
    if result is None or result == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {length} bytes: {os.strerror(code)}")
    return result
