"""Training on several devices: one process for each, one run folder, results from rank 0 alone.

On one machine the process that the user started is rank 0. It does all that comes before the
training; then Lightning starts the same command once more for every other rank. These find the run
folder in their environment, take the configuration from there and end with the training. On several
nodes srun or torchrun starts all of them; rank 0 tells the others which run folder it has made.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import distributed

from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER, launched

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


def cluster() -> ClusterEnvironment:
    """How Lightning finds the processes of this run."""
    process = launched()
    if process is None:
        return OneMachine()
    if process.launcher == "torchrun":
        return TorchElasticEnvironment()
    return slurm()


def slurm() -> SLURMEnvironment:
    """Slurm without Lightning's own way with signals, which would save in the middle of a step.

    Raises:
        EdjeError: Lightning can't follow how srun was called.
    """
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise EdjeError(f"srun: {error}") from error


class OneMachine(LightningEnvironment):
    """Processes that rank 0 starts itself; whether a scheduler started that one is no matter."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = RUN_FOLDER in os.environ  # which rank 0 sets later, for the others

    @property
    def creates_processes_externally(self) -> bool:
        """True in the other ranks, which find the run folder in their environment."""
        return self._is_started


@contextmanager
def other_ranks(trainer: L.Trainer, folder: Path) -> Iterator[None]:
    """Let the ranks started within find the run folder; leave none of them, nor their traces.

    Ranks that a launcher started have found it, and the launcher ends them.

    Raises:
        EdjeError: another rank failed.
    """
    if launched() is not None:
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
