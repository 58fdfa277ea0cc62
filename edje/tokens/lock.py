"""The lock that lets one process at a time write a store.

It isn't the package filelock's, which locks by flock. Up to its version 3.29, loading processes of
a killed writer still hold such a lock (tested). It also doesn't say who holds a lock, and can't
lock the ranges of a file that `claims` needs.
"""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edje.durable import writing_to
from edje.errors import EdjeError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
# The kernel's lock separates processes, not parts of one process. A forked process holds nothing:
# its parent's locks are here with the parent's id.
_held: dict[Path, int] = {}


@contextmanager
def writer_lock(folder: Path, *, wait: bool = True, what: str = "store") -> Iterator[None]:
    """Hold `<folder>/writer.lock` during the block; the file names the process and its host.

    The kernel releases the lock of a process that died, so a stale file is reused. `what` is the
    word for the folder's content in messages.

    Raises:
        EdjeError: another process holds it and `wait` is off, or the folder is not writable.
    """
    path = folder.resolve() / "writer.lock"
    if _is_held(path):
        raise EdjeError(f"this process is already writing {folder}. Write one {what} at a time.")
    with writing_to(folder):
        descriptor = _acquire(path, folder, wait, what)
    _held[path] = os.getpid()
    try:
        yield
    finally:
        if _is_held(path):
            del _held[path]
            path.unlink(missing_ok=True)
        os.close(descriptor)


def is_being_written(folder: Path) -> bool:
    """Whether a process, possibly this one, holds the folder's lock."""
    path = folder.resolve() / "writer.lock"
    if _is_held(path):  # asking the kernel would release the lock
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not locked(descriptor)
    finally:
        os.close(descriptor)


def locked(descriptor: int, length: int = 0, start: int = 0) -> bool:
    """Lock a range of bytes (length 0: to the end), if no other process holds any of it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_held(path: Path) -> bool:
    """Whether this process holds the lock, in any of its parts."""
    return _held.get(path) == os.getpid()


def _acquire(path: Path, folder: Path, wait: bool, what: str) -> int:
    announced = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if locked(descriptor):
                if _is_current(path, descriptor):
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return descriptor
            elif not wait:
                raise EdjeError(
                    f"the {what} {folder} is being written by {_holder(descriptor)}. "
                    "Wait until it is done, or end that process, then run this again."
                )
            elif not announced:
                log.info("waiting for %s, which is writing %s", _holder(descriptor), folder)
                announced = True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_POLL_SECONDS)


def _is_current(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name; its last holder may have just removed it."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    process, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").strip().partition(" ")
    return f"process {process} on {host}" if host else "another process"
