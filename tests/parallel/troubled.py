"""An objective that meets trouble on one rank at one step, for runs of several processes."""

import os
import signal
import time
from pathlib import Path
from typing import Literal

from edje.errors import EdjeError
from edje.objectives.matching import Matching
from edje.parallel.environment import own_rank

OVER = "none 0 0"


class Troubled(Matching):
    """Matching, until `trouble` befalls this rank (or all: -1) at its `step`-th call.

    It fails; stops as by SIGTERM; waits for a signal; kills its process, or that and the launcher
    that started it. A file `told` says it in place of the options, "wait -1 3"; once the trouble
    has come it says "none 0 0", so that the same command has no more.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        form: Literal["softmax", "binary"] = "softmax",
        trouble: Literal["none", "fail", "stop", "wait", "kill", "kill_both"] = "none",
        rank: int = 1,
        step: int = 2,
        told: str | None = None,
    ):
        super().__init__(weight=weight, form=form)
        self.told = told
        given = [trouble, rank, step] if told is None else Path(told).read_text().split()
        self.trouble, self.left = given[0], int(given[2])
        self.here = int(given[1]) in (-1, own_rank())

    def __call__(self, outputs):
        self.left -= 1
        if self.here and not self.left:
            self.befall()
        return super().__call__(outputs)

    def befall(self):
        if self.told is not None:
            Path(self.told).write_text(OVER)
        if self.trouble == "fail":
            raise EdjeError("bad luck. Try again.")
        if self.trouble == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.trouble == "wait":
            receiver = signal.getsignal(signal.SIGTERM).__self__
            while receiver.received is None:
                time.sleep(0.02)
        if self.trouble == "kill_both":
            os.kill(os.getppid(), signal.SIGKILL)
        if self.trouble.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
