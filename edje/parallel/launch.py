"""Training on several devices: one process for each, one run folder, results from rank 0 alone.

On one machine the process that the user started is rank 0. It does all that comes before the
training; then Lightning starts the same command once more for every other rank. These find the run
folder in their environment, take the configuration from there and end with the training. On several
nodes srun or torchrun starts all of them; rank 0 tells the others which run folder it has made.
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
from edje.parallel.agreement import meet
from edje.parallel.environment import RUN_FOLDER, Launched, launched

LOST = re.compile("gloo|NCCL|[Cc]onnection (closed|reset)")  # in what torch raises then
SET_FOR_RANKS = (
    RUN_FOLDER,
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
)


def check_processes(num_nodes: int, devices_of_a_node: int) -> None:
    """Refuse a number of processes that a launcher hasn't started, or nobody would.

    Raises:
        EdjeError: naming what to give instead.
    """
    process, asked = launched(), num_nodes * devices_of_a_node
    said = f"trainer.num_nodes={num_nodes} with {devices_of_a_node} devices on each"
    if process is None and num_nodes > 1:
        raise EdjeError(
            f"{said}: this process was started alone. Start one for each device by srun "
            "(srun -N2 --ntasks-per-node=4 python run.py …) or torchrun (torchrun --nnodes=2 "
            "--nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=<first node>:29400 run.py …)."
        )
    if process is not None and process.world_size != asked:
        each = process.world_size // process.num_nodes
        raise EdjeError(
            f"{process.launcher} has started {process.world_size} processes, and {said} are "
            f"{asked}. Give trainer.num_nodes={process.num_nodes} trainer.devices={each}, or start "
            "one process alone."
        )


@contextmanager
def other_ranks(trainer: L.Trainer, folder: Path) -> Iterator[None]:
    """Let the ranks started within find the run folder; leave none of them, nor their traces.

    Ranks that a launcher started have found it, and the launcher ends them; they wait here for
    those that still prepare something, which may take hours, where a training's own wait may not.

    Raises:
        EdjeError: another rank failed, or is lost.
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
            raise EdjeError(f"rank {rank} failed, as it says above and in {told[0]}.") from error
        raise
    finally:
        leave_group()
        for name, value in before.items():  # the next run of a sweep starts ranks of its own
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def lost_ranks_named(process: Launched, folder: Path) -> Iterator[None]:
    """Say so where another rank is gone, which the libraries tell of as a closed connection.

    Raises:
        EdjeError: another rank is gone.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        if not isinstance(error, distributed.DistError) and not LOST.search(said):
            raise
        raise EdjeError(
            f"rank {process.rank} on {socket.gethostname()}: another rank is gone or isn't heard "
            f"any more ({said[:200]}). What ended it is said above, or by its node. Go on from the "
            f"last checkpoint with resume={folder}, or with the same command and "
            f"hydra.run.dir={folder}."
        ) from error


def leave_group() -> None:
    """Part from the other ranks: what follows is done alone."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def end(trainer: L.Trainer, *, kill: bool = False) -> None:
    """See the processes of the other ranks end; with `kill` those too that wait for this one."""
    started = getattr(trainer.strategy.launcher, "procs", [])
    processes = list(started)
    if kill:
        started.clear()  # Lightning, who watches this list, would end this process with them
    for process in processes:
        if kill:
            process.kill()
        process.wait()
