"""Processes that read batches for the one that uses them: how many, and how they end."""

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

SHARED = Path("/dev/shm")  # where Linux keeps what worker processes hand over
AHEAD = 2  # batches that each worker has read before they are asked for, as torch has it


def share_of_cores(processes: int, most: int) -> int:
    """Workers of each of several processes on this machine: one per core, none beyond `most`."""
    return min(most, cores() // processes)


def that_fit(workers: int, processes: int, batch_bytes: int) -> int:
    """So many workers of each process, or fewer, as the batches that they hand over have room.

    Containers often come with 64 MB of shared memory; what finds no room there kills the process.
    """
    batches = room() // (processes * batch_bytes)
    return min(workers, max(batches - 1, 0) // AHEAD)  # one more is on its way


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def room() -> int:
    """Bytes that processes can hand over at once."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else sys.maxsize


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and a scheduler's signals reach the whole process group: only the main process stops.

    A worker ends when the main process tells it to, or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """At the main process's exit, end the workers that an error has left behind.

    multiprocessing ends them by SIGTERM, which they leave to the main process, and would wait for
    them forever.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would call their end an error
    for process in left:
        process.kill()
