"""The number of pairs that a training reads per second, logged with the losses."""

import time
from collections import deque
from collections.abc import Callable

import lightning as L
import torch

from edje.records import PairBatch
from edje.training.data_wait import DataWait


class Throughput(L.Callback):
    """Logs `time/pairs_per_second`, over all ranks and the batches of the last logged interval.

    The time includes the steps and waiting for their data, but not scoring dev or writing
    checkpoints. It is the first callback in the list, so that the others' work at a step's end
    doesn't belong to the step. On an accelerator a step ends when its work is launched: one step
    late, which averages out over an interval.

    Args:
        wait: the callback in the same list that measures the waiting.
    """

    def __init__(self, wait: DataWait, clock: Callable[[], float] = time.perf_counter):
        self.wait = wait
        self.clock = clock
        self._start = 0.0
        self._waited = 0.0
        self._recent: deque[tuple[int, float]] = deque()  # pairs and seconds of a batch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Average over as many batches as there are between two rows of the log."""
        every = getattr(trainer, "log_every_n_steps", 1)
        self._recent = deque(maxlen=max(every, 1) * trainer.accumulate_grad_batches)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PairBatch, batch_idx: int
    ) -> None:
        """The batch has arrived."""
        self._start = self.clock()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: PairBatch,
        batch_idx: int,
    ) -> None:
        """The step is done."""
        waited, self._waited = self.wait.waited - self._waited, self.wait.waited
        seconds = self.clock() - self._start + waited
        self._recent.append((len(batch.sample_ids) * trainer.world_size, seconds))
        pairs, spent = map(sum, zip(*self._recent, strict=True))
        pl_module.log("time/pairs_per_second", torch.tensor(pairs / max(spent, 1e-9)))
