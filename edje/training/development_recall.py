"""Recall on dev while a reranker is trained, logged by the module's own metrics."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from edje.training.callbacks import DevelopmentScore
from edje.training.reranker_module import RerankerModule


class DevelopmentRecall(DevelopmentScore):
    """A development score that is one of the module's `dev_recall` metrics; all are logged.

    `score` returns the rank of each query's first hit (`first_hit_ranks`). Rank 0 has all queries,
    the others have none, and the metrics synchronise.
    """

    def logged(
        self, trainer: L.Trainer, pl_module: L.LightningModule, scored: float | Tensor | None
    ) -> float:
        """The named recall, in percent."""
        assert isinstance(pl_module, RerankerModule)
        ranks = torch.empty(0) if scored is None else torch.as_tensor(scored)
        found = pl_module.dev_recall(ranks.to(pl_module.device))
        self.write(trainer, pl_module, found)
        pl_module.dev_recall.reset()  # the next score is for other weights
        return found[self.name].item()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best figure of the interrupted run, and compare it in the metrics' float32.

        Earlier versions kept it in double precision, which no later score would equal.
        """
        super().load_state_dict(state_dict)
        self.best = torch.tensor(self.best, dtype=torch.float32).item()
