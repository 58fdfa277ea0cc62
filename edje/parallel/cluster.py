"""How Lightning finds the processes of a run: what a launcher says, or rank 0, who starts them."""

import os

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from edje.errors import EdjeError
from edje.parallel.environment import RUN_FOLDER, launched

FIRST_PORT, PORTS = 15_000, 15_000  # below those that Linux gives away itself


def cluster() -> ClusterEnvironment:
    """How Lightning finds the processes of this run."""
    process = launched()
    if process is None:
        return OneMachine()
    if process.launcher == "torchrun":
        return TorchElasticEnvironment()
    return slurm_processes()


class OneMachine(LightningEnvironment):
    """Processes that rank 0 starts itself; whether a scheduler started that one is no matter."""

    def __init__(self) -> None:
        super().__init__()
        self._is_started = RUN_FOLDER in os.environ  # which rank 0 sets later, for the others

    @property
    def creates_processes_externally(self) -> bool:
        """True in the other ranks, which find the run folder in their environment."""
        return self._is_started


def slurm_processes() -> SLURMEnvironment:
    """Those of srun, without Lightning's way with signals, which would save in mid-step.

    Raises:
        EdjeError: Lightning can't follow how srun was called.
    """
    os.environ.setdefault("MASTER_PORT", str(meeting_port()))
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise EdjeError(f"srun: {error}") from error


def meeting_port() -> int:
    """Where the processes of this step of Slurm's meet; the next port is theirs too.

    Jobs and steps that share a node have others.
    """
    job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    return FIRST_PORT + (20 * job + 2 * step) % PORTS
