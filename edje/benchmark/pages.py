"""The pages of files in memory: drops them for cold reads and checks that they are gone."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)


def drop_pages(paths: Iterable[Path]) -> None:
    """Make the kernel drop the files' pages: fsync, then posix_fadvise(DONTNEED).

    Pages that aren't written yet or that a process maps stay, as do all pages of a file system
    in memory; `share_in_memory` shows what is left.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def share_in_memory(paths: Iterable[Path]) -> float:
    """Share of the files' pages that mincore finds in memory, in [0, 1]."""
    present = total = 0
    for path in paths:
        with path.open("rb") as file:
            flags = mmap.MAP_PRIVATE  # allows taking its address; nothing is written
            content = mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        pages = np.zeros(-(-len(content) // mmap.PAGESIZE), np.uint8)
        start = ctypes.c_char.from_buffer(content)
        failed = _libc.mincore(
            ctypes.c_void_p(ctypes.addressof(start)),
            ctypes.c_size_t(len(content)),
            pages.ctypes.data_as(ctypes.c_void_p),
        )
        del start
        content.close()
        if failed:
            raise OSError(ctypes.get_errno(), f"mincore of {path}")
        present += int((pages & 1).sum())
        total += len(pages)
    return present / max(total, 1)


def kernel_read_ahead(path: Path) -> int | None:
    """Kilobytes that a map of the file reads around a page; None if the system doesn't say."""
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) if setting.is_file() else None
