"""Which process writes which shard, of all that fill a store together."""

import fcntl
import logging
import os
import time
from pathlib import Path

from edje.tokens.lock import is_being_written

log = logging.getLogger(__name__)

CLAIMS_FILE = "claims.lock"  # byte k is locked by the process that writes shard k
_POLL_SECONDS = 0.2


class Claims:
    """A process's claims on the shards of an unfinished store, given back at the latest by `close`.

    The kernel gives back those of a process that died. One object per process and store: when
    a process closes the file for the first time, all its claims are gone.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = _open(folder)

    def take(self, index: int) -> bool:
        """Claim a shard; False if another process has it, or nobody leads the writing any more."""
        if not is_being_written(self._folder):
            return False
        return _lock(self._descriptor, 1, index)

    def give_back(self, index: int) -> None:
        """Let others have a shard."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, index)

    def close(self) -> None:
        """Give back all."""
        os.close(self._descriptor)


def wait_until_alone(folder: Path) -> None:
    """Make the claims' file, and wait for the processes whose leader died before them."""
    descriptor = _open(folder)
    announced = False
    try:
        while not _lock(descriptor, 0, 0):
            if not announced:
                log.info("waiting for processes of an ended run that still write %s", folder)
                announced = True
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder / CLAIMS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock(descriptor: int, length: int, start: int) -> bool:
    """Lock a range of bytes (length 0: to the end), if no other process holds any of it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):
        return False
    return True
