"""A picture whose reader waits, so that a process can be killed while it is at work on it."""

import errno
import os
import signal
import time
from pathlib import Path

SECONDS = 120


class BlockedPicture:
    """In place of a picture's file a pipe, until `release` puts the file back."""

    def __init__(self, path: Path):
        self.path = path
        self._own = path.with_suffix(".own")
        path.rename(self._own)
        os.mkfifo(path)

    def reader(self) -> int:
        """Wait for a process that reads it; its id. It goes on waiting."""
        for _ in range(SECONDS * 20):
            try:
                self._end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                assert error.errno == errno.ENXIO  # nobody reads
                time.sleep(0.05)
                continue
            for _ in range(100):  # until its call has returned
                if found := [
                    pid for pid in processes() if pid != os.getpid() and self._is_open(pid)
                ]:
                    return found[0]
                time.sleep(0.05)
        raise AssertionError("nobody read the picture")

    def release(self) -> None:
        """Put the picture back, for the next who reads it."""
        self._own.rename(self.path)

    def kill_reader(self) -> None:
        """Wait for a reader and kill it; the next one gets the picture."""
        process = self.reader()
        self.release()
        os.kill(process, signal.SIGKILL)

    def _is_open(self, process: int) -> bool:
        try:
            names = [str(one.readlink()) for one in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:  # it has ended
            return False
        return str(self.path) in names


def processes() -> list[int]:
    """Ids of all processes."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
