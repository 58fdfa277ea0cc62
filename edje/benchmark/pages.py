"""The pages of files in memory: drops them for cold reads and checks that they are gone."""

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edje.errors import EdjeError

LEFT = 0.001  # largest share of pages in memory for a read to count as cold
TRIES = 10  # to drop the pages that are left
PROBE = 2**20  # bytes
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


def share_left(files: Sequence[Path]) -> float:
    """Drop the files' pages; returns the share that is left in memory, in [0, 1].

    A page that the kernel is using stays at first, so dropping is tried again.
    """
    for _ in range(TRIES):
        drop_pages(files)
        left = share_in_memory(files)
        if left <= LEFT:
            break
        time.sleep(0.05)
    return left


def share_kept(folder: Path) -> float:
    """Share of a file's pages that can't be dropped in this folder: 1 if it is in memory."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        probe.write(bytes(PROBE))
        probe.flush()
        return share_left([Path(probe.name)])


def drop_all(files: Sequence[Path]) -> None:
    """Drop the files' pages before a cold read.

    Raises:
        EdjeError: more than `LEFT` of them stay.
    """
    left = share_left(files)
    if left > LEFT:
        raise EdjeError(
            f"{files[0].parent}: {left:.2%} of the pages of the benchmark's files stay in "
            "memory, so no cold read can be timed. Stop other programs that read or copy them, "
            "and start again."
        )


def kernel_read_ahead(path: Path) -> int | None:
    """Kilobytes that a map of the file reads around a page; None if the system doesn't say."""
    device = path.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return int(setting.read_text()) if setting.is_file() else None
