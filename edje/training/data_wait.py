"""The share of training spent waiting for data: logged with the losses and at the end."""

import logging
import time
from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


class DataWait(Callback):
    """Logs `time/data_wait`, the share of the time since the first step spent between steps.

    Between steps a batch is read (or awaited, if workers read it), moved and unpacked. Lightning's
    own work between steps counts too. Starting the workers and the first batch don't count. On an
    accelerator a step ends when its work is launched, so the share is an upper bound on the
    device's idle time. It is the last callback in the list, so that the others' work at a step's
    end belongs to the step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.waited = 0.0  # seconds
        self._first_start: float | None = None
        self._last_end: float | None = None

    @property
    def share(self) -> float:
        """Share of the time from the first step's start to the last step's end, in [0, 1]."""
        if self._first_start is None or self._last_end is None:
            return 0.0
        return self.waited / max(self._last_end - self._first_start, 1e-9)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """The batch has arrived."""
        now = self.clock()
        if self._last_end is None:
            self._first_start = now
        else:
            self.waited += now - self._last_end

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """The next batch is requested."""
        self._last_end = self.clock()
        pl_module.log("time/data_wait", torch.tensor(self.share))  # stays on the CPU: no wait

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the share."""
        log.info("waiting for data: %.1f%% of the training time", 100 * self.share)
