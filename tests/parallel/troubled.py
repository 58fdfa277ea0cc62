"""An objective that meets trouble on one rank at one step, for runs of several processes."""

import os
import signal
from typing import Literal

from edje.errors import EdjeError
from edje.objectives.matching import Matching


class Troubled(Matching):
    """Matching, until `trouble` befalls this rank (or all: -1) at its `step`-th call."""

    def __init__(
        self,
        *,
        weight: float = 1.0,
        form: Literal["softmax", "binary"] = "softmax",
        trouble: Literal["none", "fail", "stop"] = "none",
        rank: int = 1,
        step: int = 2,
    ):
        super().__init__(weight=weight, form=form)
        self.trouble, self.left = trouble, step
        self.here = rank in (-1, int(os.environ.get("LOCAL_RANK", "0")))

    def __call__(self, outputs):
        self.left -= 1
        if self.here and not self.left and self.trouble == "fail":
            raise EdjeError("bad luck. Try again.")
        if self.here and not self.left and self.trouble == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(outputs)
