"""Callbacks: resumable checkpoints, and a clean stop on Ctrl-C, SIGTERM or SIGUSR1."""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from edje.errors import TrainingInterrupted
from edje.parallel.collectives import largest_of_ranks, num_ranks

log = logging.getLogger(__name__)
LOOK_AGAIN = 1.0  # seconds between updates of the figures beside the bar


class ResumableCheckpoint(Callback):
    """Writes `last.ckpt` every `every_n_steps`, and when a signal stops the run.

    On SIGINT, SIGTERM or SIGUSR1 (Slurm's signal before a time limit) the current optimiser step
    is finished, the checkpoint is written, and `TrainingInterrupted` is raised, on all ranks if
    any of them got the signal. A second signal stops at once. The file is written under another
    name and renamed, so that a kill while writing leaves the earlier checkpoint whole.
    """

    def __init__(self, folder: Path, every_n_steps: int, resume_command: str):
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.resume_command = resume_command
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals (after Lightning has set its own handlers)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._release()
            raise KeyboardInterrupt
        self.received = number
        log.warning(
            "%s: finishing the current step, then writing a checkpoint", signal.Signals(number).name
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save when due, only between optimiser steps."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if told := self._told(trainer):
            self._save(trainer)
            self._release(but=told)
            raise TrainingInterrupted(told, self.resume_command)
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def _told(self, trainer: L.Trainer) -> int:
        """The signal that any rank got, 0 if none; SIGTERM has priority over SIGUSR1."""
        if trainer.world_size == 1:
            return self.received or 0
        return largest_of_ranks(self.received or 0, trainer.strategy.root_device)

    def state_dict(self) -> dict[str, int]:
        """The number of ranks, for a resumed run."""
        return {"num_ranks": num_ranks()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Log what another number of ranks changes."""
        before, now = state_dict["num_ranks"], num_ranks()
        if before != now:
            log.info(
                "ranks: %d now, %d before. Batches hold other sets of pairs, and a step reads "
                "loader.batch_size on each rank; weights, optimiser and schedule are as they were",
                now,
                before,
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the last state, so that a finished run can be continued."""
        self._save(trainer)
        self._release()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Restore the signal handlers."""
        self._release()

    def _save(self, trainer: L.Trainer) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)

    def _release(self, but: int = 0) -> None:
        """Restore the signal handlers; signal `but` may still arrive from another rank."""
        for number, handler in self._previous.items():
            is_late = number == but == signal.SIGUSR1
            signal.signal(number, signal.SIG_IGN if is_late else handler)
        self._previous.clear()


class StepProgress(TQDMProgressBar):
    """A bar over the run's optimiser steps; Lightning's epoch is the whole run, so it isn't shown.

    It is written to the standard error, like all other bars, and as often as they are: Lightning
    would write a line for every step, which fills the log files of long runs. Logged figures are
    shown beside it. Reading them waits for the device, so they are read once a second, and not
    once a step, as Lightning does for what is logged with `prog_bar`.

    Args:
        figures: names in the log.
    """

    def __init__(
        self,
        figures: Sequence[str] = ("train/accuracy", "train/loss"),
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self.figures = figures
        self.clock = clock
        self._shown: dict[str, Any] = {}
        self._looked = self._drawn = -math.inf

    def init_train_tqdm(self) -> Tqdm:
        """The bar."""
        return Tqdm(
            desc="train",
            disable=self.is_disabled,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def _should_update(self, current: int, total: int) -> bool:
        if not self.is_enabled:  # on ranks above 0
            return False
        now = self.clock()
        if current != total and now - self._drawn < self.train_progress_bar.mininterval:
            return False
        self._drawn = now
        return bool(super()._should_update(current, total))

    @property
    def total_train_batches(self) -> int | float:
        """The run's steps, including those before it was resumed."""
        steps = self.trainer.max_steps
        return steps if steps > 0 else super().total_train_batches

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Name the bar."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("train")

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance by a step; with accumulated gradients, after the step's last batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The figures, at most a second old."""
        if self.clock() - self._looked >= LOOK_AGAIN:
            self._looked = self.clock()
            logged = trainer.callback_metrics
            self._shown = {name: logged[name].item() for name in self.figures if name in logged}
        return self._shown

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the final step and figures."""
        self._looked = -math.inf
        self.train_progress_bar.n = trainer.global_step
        super().on_train_epoch_end(trainer, pl_module)
