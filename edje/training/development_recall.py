"""Recall on dev while a reranker is trained: logged, and the best weights are kept."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from edje.training.reranker_module import RerankerModule

log = logging.getLogger(__name__)


class DevelopmentRecall(Callback):
    """Scores the reranker on the development set at intervals and keeps the best weights.

    Rank 0 scores all queries, the others none, and the module's `dev_recall` metrics synchronise.
    All of them are logged, only at their own step.

    Args:
        score: returns the rank of each query's first hit (`first_hit_ranks`); takes no arguments
            (it knows model and data).
        keep: writes the current weights as the best ones.
        every_n_steps: optimiser steps between two scores.
        name: the metric to maximise, in percent.
        patience: after this many scores in a row without a new best, the training ends, on all
            ranks together; None: never.
    """

    state_key = "DevelopmentScore"  # the name of its state in checkpoints, that of version 0.1.0

    def __init__(
        self,
        score: Callable[[], Float[Tensor, "queries"]],
        keep: Callable[[], None],
        every_n_steps: int,
        name: str,
        patience: int | None = None,
    ):
        self.score = score
        self.keep = keep
        self.every_n_steps = every_n_steps
        self.name = name
        self.patience = patience
        self.best = float("-inf")
        self.since_best = 0  # scores

    @property
    def is_at_end(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since_best >= self.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the resumed training had been stopped early."""
        if self.is_at_end:
            self._stop(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Score when due, and keep the weights if the score is a new best."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not stepped or trainer.global_step % self.every_n_steps:
            return
        ranks = torch.empty(0)
        if trainer.is_global_zero:
            pl_module.eval()
            ranks = self.score()
            pl_module.train()
        value = self._logged(trainer, pl_module, ranks)
        log.info("step %d: %s %.2f", trainer.global_step, self.name, value)
        self.since_best += 1
        if value > self.best:
            self.best, self.since_best = value, 0
            if trainer.is_global_zero:
                self.keep()
        if self.is_at_end:
            self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        log.info(
            "stopped early, at step %d of %d: %s did not rise above %.2f again (scores since then: "
            "%d, scoring.patience=%d); the best weights are kept",
            *(trainer.global_step, trainer.max_steps, self.name),
            *(self.best, self.since_best, self.patience),
        )
        trainer.should_stop = True

    def _logged(self, trainer: L.Trainer, pl_module: L.LightningModule, ranks: Tensor) -> float:
        """Log the metrics at the current step, and show them beside the bar; returns the named one.

        Lightning itself would write them at the next logged step, and at all later ones.
        """
        assert isinstance(pl_module, RerankerModule)
        found = pl_module.dev_recall(ranks.to(pl_module.device))
        pl_module.log_dict(found, logger=False)
        values = {name: float(value) for name, value in found.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step - 1)  # counts from 0
        pl_module.dev_recall.reset()  # the next score is for other weights
        return values[self.name]

    def state_dict(self) -> dict[str, float]:
        """The best figure so far and the scores since, so that a resumed run goes on comparing."""
        return {"best": self.best, "since_best": self.since_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over those of the interrupted run; earlier versions kept only the best.

        They kept it in double precision, which no score in the metrics' float32 would equal.
        """
        self.best = torch.tensor(state_dict["best"], dtype=torch.float32).item()
        self.since_best = int(state_dict.get("since_best", 0))
