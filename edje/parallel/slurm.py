"""A job of Slurm's: which one this is, and that its time is over.

Before a time limit Slurm sends the signal that the job asked for (`#SBATCH --signal=USR1@120`) to
all processes of a step. Rank 0 then asks for the job to be queued again, under the same number.
"""

import os
import signal
import subprocess
from types import FrameType

TIME_IS_OVER = signal.SIGUSR1


def job() -> str | None:
    """The number of this process's job, which one that is queued again keeps; None outside."""
    return os.environ.get("SLURM_JOB_ID")


def step() -> str | None:
    """Which `srun` of which job started this process, as `<job>.<step>`; None if none did.

    In a shell that srun has opened one command follows another: there it is None too.
    """
    number = os.environ.get("SLURM_STEP_ID")
    if job() is None or number is None or "SLURM_PTY_PORT" in os.environ:
        return None
    return f"{job()}.{number}"


class TimeLimit:
    """Lets the signal before a job's time limit end what rank 0 does, as Ctrl-C would."""

    is_over = False

    @classmethod
    def heed(cls, rank: int) -> None:
        """From now on, in a job; a training takes the signal over while it lasts.

        Other ranks wait for rank 0.
        """
        if job() is not None:
            signal.signal(TIME_IS_OVER, cls._interrupt if rank == 0 else signal.SIG_IGN)

    @classmethod
    def _interrupt(cls, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        cls.is_over = True
        raise KeyboardInterrupt


def requeue() -> str | None:
    """Ask for this job to be queued again, and say what came of it; None outside a job."""
    number = job()
    if number is None:
        return None
    command = ["scontrol", "requeue", number]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "queued again" if not done.returncode else f"not queued again: {done.stderr.strip()}"
    return f"Slurm job {number}: {said}"
