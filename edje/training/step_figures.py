"""Logs of each optimiser step besides its losses: learning rate and gradient norm."""

from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer


class StepFigures(L.Callback):
    """Logs `optim/learning_rate` and `optim/gradient_norm` at each optimiser step.

    The rate is the joint encoder's (the adapter's is `adapter_lr_scale` times it). The norm is
    that of all gradients together, accumulated over the step's batches and the ranks, before
    clipping. It stays on its device, so nothing waits for it.

    Args:
        lr: the joint encoder's peak rate.
    """

    def __init__(self, lr: float):
        self.lr = lr

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Gradients are complete, unscaled and not yet clipped."""
        schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        rate = self.lr * schedule.lr_lambdas[0](schedule.last_epoch)
        pl_module.log("optim/learning_rate", torch.tensor(rate))  # stays on the CPU: no wait
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        pl_module.log("optim/gradient_norm", torch.nn.utils.get_total_norm(gradients))
