"""The other processes of a run on several devices: how they know which run they belong to."""

import os
from pathlib import Path

from edje.errors import EdjeError

RUN_FOLDER = "EDJE_RUN_FOLDER"  # set for them by the process that a user started


def joined_run() -> Path | None:
    """The run folder of the run that this process is another rank of; None for a user's own.

    Raises:
        EdjeError: a launcher started several processes, each of which would make a run of its own.
    """
    if RUN_FOLDER in os.environ:
        return Path(os.environ[RUN_FOLDER])
    if os.environ.get("WORLD_SIZE", "1") != "1" or own_rank() != 0:
        raise EdjeError(
            "This process is one of several that a launcher such as torchrun has started. Start "
            "one alone, with trainer.devices=2 or so: it starts the others itself."
        )
    return None


def own_rank() -> int:
    """This process's place among those of its run."""
    return int(os.environ.get("LOCAL_RANK", "0"))
