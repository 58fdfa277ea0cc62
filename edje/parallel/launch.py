"""Training on several devices: one process for each, one run folder, results from rank 0 alone.

The process that the user started is rank 0. It does all that comes before the training; then
Lightning starts the same command once more for every other rank. These find the run folder in
their environment, take the configuration from there and end with the training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import distributed

from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER

SET_FOR_RANKS = (
    RUN_FOLDER,
    *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"),
)


def check_launcher() -> None:
    """Refuse several processes of Slurm's, each of which would make a run of its own.

    Raises:
        EdjeError: `srun` has started several.
    """
    processes = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if processes != "1" and RUN_FOLDER not in os.environ:
        raise EdjeError(
            f"srun has started {processes} processes, each of which would make a run of its own. "
            "Start one (srun --ntasks=1), with trainer.devices=2 or so: it starts the others."
        )


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

    Raises:
        EdjeError: another rank failed.
    """
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
