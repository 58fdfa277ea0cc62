"""The LightningModule of the reranker: steps, logging, optimiser. It builds nothing itself."""

from collections.abc import Mapping
from functools import partial

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from edje.models.adapters import TokenCompressionAdapter
from edje.models.edje import EDJE
from edje.objectives.draws import uniform
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import Objective, StepOutputs
from edje.records import PairBatch
from edje.training.optimisation import Optimisation, seed_step
from edje.training.ranks import JoinedPairs, num_ranks, to_common_length
from edje.training.step import forward_step, masked_positions
from edje.training.unread import freeze_unread


class RerankerModule(L.LightningModule):
    """Trains an EDJE on pairs whose vision tokens are cached.

    Negatives, masks and dropout are functions of (seed, step, sample), so that a run resumed
    mid-epoch gives bitwise what an uninterrupted one gives.

    Args:
        model: the reranker, the only part that is trained and saved.
        objectives: the terms of the loss by name.
        negatives: the miner of hard negatives.
        optimisation: the optimiser and schedule to build.
        mask_id: word-piece id of [MASK].
        steps_per_epoch: optimiser steps that one rank alone needs for a pass over the training set.
        checkpoint_fields: what makes a checkpoint reload alone; added to every one.
        teacher: a frozen reranker to distil from; neither trained nor saved.
        seed: seeds every draw.
    """

    def __init__(
        self,
        model: EDJE,
        objectives: Mapping[str, Objective],
        negatives: HardNegatives,
        optimisation: Optimisation,
        mask_id: int,
        steps_per_epoch: int,
        checkpoint_fields: Mapping[str, object],
        teacher: EDJE | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = model.train()
        self.objectives = dict(objectives)
        self.negatives = negatives
        self.optimisation = optimisation
        self.mask_id = mask_id
        self.steps_per_epoch = steps_per_epoch
        self.checkpoint_fields = dict(checkpoint_fields)
        self.seed = seed
        self.needs = frozenset().union(*(term.needs for term in self.objectives.values()))
        freeze_unread(model, self.needs)
        frozen = None if teacher is None else teacher.eval().requires_grad_(False)
        self._teacher = [frozen]  # in a list, so that it is no submodule of this one

    def on_fit_start(self) -> None:
        """Bring the teacher to the device of the model."""
        self._teacher = [None if t is None else t.to(self.device) for t in self._teacher]

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """The weighted sum of the objectives on one batch of pairs."""
        step = batch_idx  # counts batches from the run's start, resumed or not
        seed_step(self.seed, step, self.global_rank)
        outputs = self.forward(batch, step)
        terms = {name: term(outputs) for name, term in self.objectives.items()}
        loss = torch.stack([self.objectives[name].weight * terms[name] for name in terms]).sum()
        log = partial(self.log, sync_dist=num_ranks() > 1)
        with torch.no_grad():
            if outputs.t2i_logits is not None:
                first = outputs.t2i_logits.argmax(1).eq(0).float().mean()
                log("train/accuracy", first, prog_bar=True)
            if outputs.teacher_t2i_logits is not None:
                log("train/teacher_logit_mean", outputs.teacher_t2i_logits.mean())
                log("train/teacher_logit_deviation", outputs.teacher_t2i_logits.std())
        for name, term in terms.items():
            log(f"train/{name}", term.detach())
        log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def forward(self, batch: PairBatch, step: int) -> StepOutputs:
        """What the objectives read, for this rank's pairs among those of all ranks."""
        if isinstance(self.model.adapter, TokenCompressionAdapter):
            self.model.adapter.draw_budget(float(uniform(self.seed, step, 5)))
        batch = to_common_length(batch)
        everyone = JoinedPairs.of(batch)
        negatives = None
        if "pairs" in self.needs:
            mined = self.negatives(
                everyone.image_embeddings,
                everyone.text_embeddings,
                everyone.image_ids,
                everyone.caption_keys,
                everyone.sample_ids,
                self.seed,
                step,
            )
            negatives = mined.of_rows(slice(everyone.first, everyone.first + len(batch.tokens)))
        mask = None
        text = self.model.joint.cut(batch.text)
        for term in self.objectives.values():
            if isinstance(term, MaskedLanguage):
                mask = masked_positions(text, batch.sample_ids, term.probability, self.seed, step)
        return forward_step(
            self.model,
            batch,
            negatives,
            self.needs,
            mask,
            self.mask_id,
            self._teacher[0],
            everyone,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with its per-step schedule."""
        steps = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(self.steps_per_epoch // self.trainer.world_size, 1)
        optimizer, schedule = self.optimisation.build(self.model, steps, per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add what makes the checkpoint reload with nothing else."""
        checkpoint.update(self.checkpoint_fields)
