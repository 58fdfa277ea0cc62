"""The Slurm job: its number, and the signal that its time is over.

Before a time limit, Slurm sends the signal that the job requested (`#SBATCH --signal=USR1@120`) to
all processes of a step. Rank 0 then requests that the job be queued again, under the same number.
"""

import os
import signal
import subprocess
from types import FrameType

TIME_IS_OVER = signal.SIGUSR1


def job() -> str | None:
    """This process's job number, which a requeued job keeps; None outside a job."""
    return os.environ.get("SLURM_JOB_ID")


def step() -> str | None:
    """The `srun` and job that started this process, as `<job>.<step>`; None if none did.

    In a shell that srun opened, it is None too, because several commands may run there.
    """
    number = os.environ.get("SLURM_STEP_ID")
    if job() is None or number is None or "SLURM_PTY_PORT" in os.environ:
        return None
    return f"{job()}.{number}"


class TimeLimit:
    """Makes the signal before a job's time limit end rank 0's work, as Ctrl-C would."""

    is_over = False

    @classmethod
    def heed(cls, rank: int) -> None:
        """Start to handle the signal, if in a job; a training replaces this while it runs.

        Other ranks ignore the signal and wait for rank 0.
        """
        if job() is not None:
            signal.signal(TIME_IS_OVER, cls._interrupt if rank == 0 else signal.SIG_IGN)

    @classmethod
    def _interrupt(cls, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        cls.is_over = True
        raise KeyboardInterrupt


def requeue() -> str | None:
    """Request that this job be queued again; returns the outcome as a text, None outside a job."""
    number = job()
    if number is None:
        return None
    command = ["scontrol", "requeue", number]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "queued again" if not done.returncode else f"not queued again: {done.stderr.strip()}"
    return f"Slurm job {number}: {said}"
