"""How a process knows its peers: from the environment variables of a launcher."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edje.errors import EdjeError

RUN_FOLDER = "EDJE_RUN_FOLDER"  # set for other ranks by the process that a user started


@dataclass(frozen=True)
class Launched:
    """One of several processes that a launcher has started with the same command.

    `rank` counts over all nodes, `local_rank` on this node.
    """

    launcher: Literal["torchrun", "srun"]
    rank: int
    local_rank: int
    world_size: int
    num_nodes: int


def launched() -> Launched | None:
    """The launcher's facts; None if a user, or rank 0 of a run, started this process."""
    given = os.environ
    if RUN_FOLDER in given:
        return None
    if "TORCHELASTIC_RUN_ID" in given and given.get("WORLD_SIZE", "1") != "1":
        world, local = int(given["WORLD_SIZE"]), int(given["LOCAL_WORLD_SIZE"])
        nodes = world // local
        return Launched("torchrun", int(given["RANK"]), int(given["LOCAL_RANK"]), world, nodes)
    if given.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return Launched(
            "srun",
            int(given["SLURM_PROCID"]),
            int(given["SLURM_LOCALID"]),
            int(given["SLURM_STEP_NUM_TASKS"]),
            int(given.get("SLURM_STEP_NUM_NODES", "1")),
        )
    return None


def joined_run() -> Path | None:
    """The run folder of the run whose rank 0 started this process; None for any other process.

    Raises:
        EdjeError: an unknown launcher started several processes, each of which would make its own
            run.
    """
    if RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    if launched() is None and (os.environ.get("WORLD_SIZE", "1") != "1" or own_rank() != 0):
        raise EdjeError(
            "This process is one of several that a launcher started, and the launcher is neither "
            "torchrun nor srun. Start a single process, for example with trainer.devices=2: it "
            "starts the others itself."
        )
    return None


def own_rank() -> int:
    """This process's index among those of its run, over all nodes."""
    process = launched()
    return int(os.environ.get("LOCAL_RANK", "0")) if process is None else process.rank


def local_rank() -> int:
    """This process's index among those of its run on this node, which is also its device's."""
    process = launched()
    return int(os.environ.get("LOCAL_RANK", "0")) if process is None else process.local_rank
