"""The optimiser and its schedule: AdamW, warm-up, then a decay per step."""

import math
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from edje.errors import EdjeError
from edje.objectives.draws import integer


class Optimisation:
    """AdamW with linear warm-up and a decay to `final_lr`.

    Norms, biases, single vectors, learned queries and embeddings of absolute positions have no
    weight decay; those of distances (DeBERTa, MPNet) have.
    `cosine` falls over the whole run; `exponential` multiplies by `decay_per_epoch` (0.9 in EDJE)
    after every pass over the training set that ends after the warm-up. A pass is as many pairs as
    the set has, mined neighbours included.

    Args:
        lr: peak learning rate.
        weight_decay: decoupled decay of the matrices.
        warmup_steps: optimiser steps from `initial_lr` to `lr`.
        adapter_lr_scale: the adapter's learning rate in units of `lr`, for a fresh adapter with a
            trained joint encoder.

    Raises:
        EdjeError: a value is invalid, such as a learning rate of 0.
    """

    def __init__(
        self,
        *,
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        betas: list[float] | None = None,
        warmup_steps: int = 100,
        initial_lr: float = 1e-6,
        final_lr: float = 1e-6,
        schedule: Literal["cosine", "exponential", "constant"] = "cosine",
        decay_per_epoch: float = 0.9,
        adapter_lr_scale: float = 1.0,
    ):
        pair = betas or (0.9, 0.999)
        are_shares = len(pair) == 2 and all(0 <= beta < 1 for beta in pair)
        for name, value, fits, expected in (
            ("lr", lr, 0 < lr < math.inf, "more than 0"),
            ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "at least 0"),
            ("betas", betas, are_shares, "two numbers from 0 to below 1"),
            ("warmup_steps", warmup_steps, warmup_steps >= 0, "at least 0 steps"),
            ("initial_lr", initial_lr, 0 <= initial_lr <= lr, f"0 to optim.lr={lr}, its peak"),
            ("final_lr", final_lr, 0 <= final_lr <= lr, f"0 to optim.lr={lr}, its peak"),
            ("decay_per_epoch", decay_per_epoch, 0 < decay_per_epoch <= 1, "above 0, at most 1"),
            ("adapter_lr_scale", adapter_lr_scale, 0 <= adapter_lr_scale < math.inf, "at least 0"),
        ):
            if not fits:
                raise EdjeError(f"optim.{name}={value}: expected {expected}. Fix the value.")
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = (pair[0], pair[1])
        self.warmup_steps = warmup_steps
        self.initial_lr = initial_lr
        self.final_lr = final_lr
        self.schedule = schedule
        self.decay_per_epoch = decay_per_epoch
        self.adapter_lr_scale = adapter_lr_scale

    def build(
        self, model: nn.Module, max_steps: int, steps_per_epoch: int
    ) -> tuple[Optimizer, LambdaLR]:
        """An optimiser over the trainable parameters and its per-step schedule."""
        optimizer = AdamW(self._groups(model), lr=self.lr, betas=self.betas)
        return optimizer, LambdaLR(
            optimizer, lambda step: self.factor(step, max_steps, steps_per_epoch)
        )

    def for_run(
        self, trainer: L.Trainer, model: nn.Module, steps_per_epoch: int
    ) -> OptimizerLRScheduler:
        """The result of a module's `configure_optimizers`: both of `build`, updated every step.

        `steps_per_epoch` is the number that a single rank needs for a pass.
        """
        steps = int(trainer.estimated_stepping_batches)
        optimizer, schedule = self.build(
            model, steps, max(steps_per_epoch // trainer.world_size, 1)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def factor(self, step: int, max_steps: int, steps_per_epoch: int) -> float:
        """The learning rate at a step in units of `lr`."""
        first, last = self.initial_lr / self.lr, self.final_lr / self.lr
        if step < self.warmup_steps:
            return first + (1 - first) * step / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "exponential":
            passes = step // steps_per_epoch - self.warmup_steps // steps_per_epoch
            return max(last, self.decay_per_epoch**passes)
        done = (step - self.warmup_steps) / max(max_steps - self.warmup_steps, 1)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _groups(self, model: nn.Module) -> list[dict]:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            learned_query = name.rpartition(".")[2] == "query"  # not a projection to queries
            decayed = parameter.ndim >= 2 and "position" not in name and not learned_query
            key = (decayed, name.startswith("adapter."))
            groups.setdefault(key, []).append(parameter)
        return [
            {
                "params": parameters,
                "weight_decay": self.weight_decay if decayed else 0.0,
                "lr": self.lr * (self.adapter_lr_scale if adapter else 1.0),
            }
            for (decayed, adapter), parameters in groups.items()
        ]


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout a function of (seed, step, rank), so that a resumed run repeats it."""
    torch.manual_seed(integer(seed, step, rank, 4))
