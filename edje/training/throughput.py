"""How many pairs a training reads in a second: logged with the losses."""

import time
from collections import deque
from collections.abc import Callable

import lightning as L
import torch

from edje.records import PairBatch
from edje.training.data_wait import DataWait


class Throughput(L.Callback):
    """Logs `time/pairs_per_second`, of all ranks, over the batches of the last logged interval.

    Their time is that of their steps and of waiting for their data; scoring dev and writing
    checkpoints don't count. Comes first in the list of callbacks, so that what the others do at a
    step's end doesn't belong to the step. On an accelerator a step's end is when its work was
    handed over: a step late, which an interval levels out.

    Args:
        wait: what measures the waiting, in the same list.
    """

    def __init__(self, wait: DataWait, clock: Callable[[], float] = time.perf_counter):
        self.wait = wait
        self.clock = clock
        self._start = 0.0
        self._waited = 0.0
        self._recent: deque[tuple[int, float]] = deque()  # pairs and seconds of a batch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look over as many batches as lie between two rows of the log."""
        every = getattr(trainer, "log_every_n_steps", 1)
        self._recent = deque(maxlen=max(every, 1) * trainer.accumulate_grad_batches)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PairBatch, batch_idx: int
    ) -> None:
        """The batch is there."""
        self._start = self.clock()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: PairBatch,
        batch_idx: int,
    ) -> None:
        """Its step is done."""
        waited, self._waited = self.wait.waited - self._waited, self.wait.waited
        seconds = self.clock() - self._start + waited
        self._recent.append((len(batch.sample_ids) * trainer.world_size, seconds))
        pairs, spent = map(sum, zip(*self._recent, strict=True))
        pl_module.log("time/pairs_per_second", torch.tensor(pairs / max(spent, 1e-9)))
