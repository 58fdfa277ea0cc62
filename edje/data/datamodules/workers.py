"""Processes that read batches for the training process: how many, and how they end."""

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

from edje.cores import cores
from edje.parallel.environment import launched

SHARED = Path("/dev/shm")  # where Linux keeps the batches that workers hand over
AHEAD = 2  # batches that each worker reads in advance, as in torch


def share_of_cores(processes: int, most: int) -> int:
    """Workers of each of several processes on this machine: one per core, at most `most`.

    A launcher's or a user's process shares its cores with the others. Slurm may bind each of its
    tasks to cores of its own, which are then not divided again.
    """
    own, process = cores(), launched()
    of_all = own
    if process is not None and process.launcher == "srun":
        of_all = max(own, int(os.environ.get("SLURM_CPUS_ON_NODE", own)))
    return min(most, own, of_all // processes)


def that_fit(workers: int, processes: int, batch_bytes: int) -> int:
    """`workers` of each process, or as many as shared memory has room for their batches.

    Containers often have only 64 MB of shared memory; a batch that doesn't fit kills the process.
    """
    batches = room() // (processes * batch_bytes)
    return min(workers, max(batches - 1, 0) // AHEAD)  # one more is being handed over


def start_method(workers: int) -> str | None:
    """How a loader's workers start: on Linux forked, also where Python or the process would not be.

    A forked worker needs no copy of a tower or of a training set.
    """
    return "fork" if workers and sys.platform == "linux" else None


def room() -> int:
    """Bytes of shared memory free for handing over batches."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else sys.maxsize


def leave_signals_to_main(worker: int) -> None:
    """Ignore Ctrl-C and a scheduler's signals, which reach the whole process group.

    Only the main process reacts. A worker ends when the main process tells it to, or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """At the main process's exit, end the workers that an error has left behind.

    multiprocessing ends them by SIGTERM, which workers ignore, and would wait forever.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report an error
    for process in left:
        process.kill()
