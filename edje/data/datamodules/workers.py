"""Processes that read batches for the training process: how many, and how they end."""

import atexit
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from multiprocessing.context import BaseContext, ForkContext, ForkProcess
from multiprocessing.queues import Queue
from pathlib import Path

from edje.cores import cores
from edje.errors import EdjeError
from edje.parallel.environment import launched

SHARED = Path("/dev/shm")  # where Linux keeps the batches that workers hand over
PAUSE = 0.05  # seconds before a worker is forked
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


def number_of(option: str, asked: int | None, suited: int, processes: int, batch_bytes: int) -> int:
    """Workers of each process: those asked for, or as many of `suited` as fit.

    Their batches have to fit into shared memory, of which containers often have only 64 MB.

    Raises:
        EdjeError: the batches of the workers that `option` asks for don't fit, whatever is free.
    """
    if asked is None:
        batches = room() // (processes * batch_bytes)
        return min(suited, max(batches - 1, 0) // AHEAD)  # one more is being handed over
    needed = processes * (AHEAD * asked + 1) * batch_bytes
    if asked and needed > (size := whole()):
        raise EdjeError(
            f"{option}={asked}: {SHARED} has {size / 2**20:.0f} MB of shared memory, but the "
            f"batches on their way, of {batch_bytes / 2**20:.0f} MB each, take "
            f"{needed / 2**20:.0f}. Use {option}=0, which loads without workers, or start the "
            f"container with --shm-size={-(-needed // 2**20)}m."
        )
    return asked


def start_method(workers: int) -> BaseContext | None:
    """How a loader's workers start: on Linux forked, also where Python or the process would not be.

    A forked worker needs no copy of a tower or of a training set.
    """
    return FORKED if workers and sys.platform == "linux" else None


class _Forked(ForkProcess):
    def start(self) -> None:
        """Start it when the threads that have just exchanged tensors are done.

        Before Python 3.12 a forked process waits for ever if a thread of its parent was just
        beginning or ending to run Python, as torch's do after each collective operation.
        """
        if sys.version_info < (3, 12):
            time.sleep(PAUSE)
        super().start()


class _Forking(ForkContext):
    Process = _Forked


FORKED = _Forking()


def room() -> int:
    """Bytes of shared memory free for handing over batches."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else sys.maxsize


def whole() -> int:
    """Bytes of shared memory, free or not."""
    return shutil.disk_usage(SHARED).total if SHARED.is_dir() else sys.maxsize


def begin(worker: int) -> None:
    """Ignore Ctrl-C and a scheduler's signals, which reach the whole process group.

    Only the main process reacts. A worker ends when the main process tells it to, or is gone, or
    when it can't hand over a batch, for which the main process would wait for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, batch: object) -> None:
    traceback.print_exception(error)
    os._exit(1)  # from the queue's own thread; torch reports it in the main process


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
