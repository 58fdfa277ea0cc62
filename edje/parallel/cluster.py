"""How Lightning finds the processes of a run: from a launcher, or from rank 0 that starts them."""

import os

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER, launched

FIRST_PORT, PORTS = 15_000, 15_000  # below the range that Linux assigns itself


def cluster() -> ClusterEnvironment:
    """How Lightning finds the processes of this run."""
    process = launched()
    if process is None:
        return OneMachine()
    if process.launcher == "torchrun":
        return TorchElasticEnvironment()
    return slurm_processes()


class OneMachine(LightningEnvironment):
    """Processes that rank 0 starts itself, whether or not a scheduler started rank 0."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = RUN_FOLDER in os.environ  # rank 0 sets it later, for the others

    @property
    def creates_processes_externally(self) -> bool:
        """True in the other ranks, which find the run folder in their environment."""
        return self._is_started


def slurm_processes() -> SLURMEnvironment:
    """The processes of srun, without Lightning's signal handling, which would save in mid-step.

    Raises:
        EdjeError: Lightning can't interpret how srun was called.
    """
    os.environ.setdefault("MASTER_PORT", str(meeting_port()))
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise EdjeError(f"srun: {error}") from error


def meeting_port() -> int:
    """The port where the processes of this Slurm step meet; the next port is theirs too.

    Jobs and steps that share a node get other ports.
    """
    job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    return FIRST_PORT + (20 * job + 2 * step) % PORTS
