"""Training on several devices: one process per device, one run folder, results only from rank 0.

On one machine the process that the user started is rank 0. It does everything before the training.
Then Lightning starts the same command once more for every other rank. These find the run folder in
their environment, read the configuration there and exit after the training. On several nodes, srun
or torchrun starts all of them, and rank 0 announces its run folder to the others.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from torch import distributed

from edje.errors import EdjeError
from edje.parallel.agreement import meet, taken_port
from edje.parallel.environment import RUN_FOLDER, Launched, launched

LOST = re.compile("gloo|NCCL|[Cc]onnection (closed|reset)")  # in what torch raises in that case
SET_FOR_RANKS = (
    RUN_FOLDER,
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
)


def check_processes(num_nodes: int, devices_of_a_node: int) -> None:
    """Refuse a number of processes that differs from the launcher's, or that nothing will start.

    Raises:
        EdjeError: the message says what to give instead.
    """
    process, asked = launched(), num_nodes * devices_of_a_node
    said = f"trainer.num_nodes={num_nodes} with {devices_of_a_node} devices on each"
    if process is None and num_nodes > 1:
        raise EdjeError(
            f"{said}: only this process was started. Start one for each device with srun "
            "(srun -N2 --ntasks-per-node=4 edje …) or torchrun (torchrun --nnodes=2 "
            "--nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=<first node>:29400 "
            "-m edje …)."
        )
    if process is not None and process.world_size != asked:
        each = process.world_size // process.num_nodes
        raise EdjeError(
            f"{process.launcher} has started {process.world_size} processes, but {said} are "
            f"{asked}. Give trainer.num_nodes={process.num_nodes} trainer.devices={each}, or start "
            "a single process."
        )


@contextmanager
def other_ranks(trainer: L.Trainer, folder: Path) -> Iterator[None]:
    """Let ranks that the block starts find the run folder; afterwards, end them and clean up.

    A launcher's ranks have already found it, and the launcher ends them. They wait here for ranks
    that still prepare something. That may take hours, longer than a training may wait itself.

    Raises:
        EdjeError: another rank failed or is lost.
    """
    process = launched()
    if process is not None:
        with lost_ranks_named(process, folder):
            meet(process, "the training")
            try:
                yield
            finally:
                leave_group()
        return
    before = {name: os.environ.get(name) for name in SET_FOR_RANKS}
    os.environ[RUN_FOLDER] = str(folder.resolve())
    try:
        yield
        leave_group()
        end(trainer)
    except BaseException as error:
        end(trainer, kill=True)
        told = sorted(folder.glob("error_rank_*.txt"))
        if told and isinstance(error, Exception):
            rank = told[0].stem.rpartition("_")[2]
            raise EdjeError(f"rank {rank} failed: see its message above and {told[0]}.") from error
        raise
    finally:
        leave_group()
        for name, value in before.items():  # the next run of a sweep starts ranks of its own
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def lost_ranks_named(process: Launched, folder: Path) -> Iterator[None]:
    """Report a lost rank, for which the libraries only report a closed connection.

    Raises:
        EdjeError: another rank is gone, or another program uses the port of the training.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        if not isinstance(error, distributed.DistError) and not LOST.search(said):
            raise
        if "EADDRINUSE" in said:
            raise taken_port(process, int(os.environ["MASTER_PORT"])) from error
        raise EdjeError(
            f"rank {process.rank} on {socket.gethostname()}: another rank is gone or doesn't "
            f"answer ({said[:200]}). Its message is above, or in the log of its node. Continue "
            f"from the last checkpoint with resume={folder}, or with the same command and "
            f"hydra.run.dir={folder}."
        ) from error


def leave_group() -> None:
    """Leave the group of ranks: this process does the rest alone."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def end(trainer: L.Trainer, *, kill: bool = False) -> None:
    """Wait for the other ranks' processes to end; with `kill`, also those waiting for this one."""
    started = getattr(trainer.strategy.launcher, "procs", [])
    processes = list(started)
    if kill:
        started.clear()  # Lightning watches this list and would end this process too
    for process in processes:
        if kill:
            process.kill()
        process.wait()
