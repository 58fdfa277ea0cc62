"""Claims: which process writes which shard, when several fill a store together."""

import fcntl
import logging
import os
import time
from pathlib import Path

from edje.tokens.lock import is_being_written, locked

log = logging.getLogger(__name__)

CLAIMS_FILE = "claims.lock"  # byte k is locked by the process that writes shard k
_POLL_SECONDS = 0.2


class Claims:
    """A process's claims on the shards of an unfinished store, released at the latest by `close`.

    The kernel releases the claims of a process that died. Use one object per process and store:
    when a process closes the file for the first time, all its claims are gone.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = _open(folder)

    def take(self, index: int) -> bool:
        """Claim a shard; False if another process has it, or no process leads the writing."""
        if not is_being_written(self._folder):
            return False
        return locked(self._descriptor, 1, index)

    def give_back(self, index: int) -> None:
        """Release a shard for others."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, index)

    def close(self) -> None:
        """Release all claims."""
        os.close(self._descriptor)


def wait_until_alone(folder: Path) -> None:
    """Create the claims' file, and wait for processes that outlive their leader."""
    descriptor = _open(folder)
    announced = False
    try:
        while not locked(descriptor):
            if not announced:
                log.info("waiting for processes of a finished run that still write %s", folder)
                announced = True
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder / CLAIMS_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
