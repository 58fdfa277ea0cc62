"""The LightningModule of the reranker: steps, logging, optimiser. It builds nothing itself."""

import logging
from collections.abc import Mapping
from functools import partial

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from edje.errors import EdjeError
from edje.models.edje import EDJE
from edje.objectives.draws import fraction
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.negatives import HardNegatives, Negatives
from edje.objectives.outputs import Objective, StepOutputs, mean_of_rows, without_absent
from edje.parallel.collectives import num_ranks
from edje.records import PairBatch
from edje.retrieval.recall_metric import recall_metrics
from edje.training.counts import StepCounts
from edje.training.joined_pairs import JoinedPairs, to_common_length
from edje.training.optimisation import Optimisation, seed_step
from edje.training.step import forward_step, masked_positions
from edje.training.unread import freeze_unread

log = logging.getLogger(__name__)
COUNTS = "missing_negatives"  # in training checkpoints: their number, and in how many batches


class RerankerModule(L.LightningModule):
    """Trains an EDJE on pairs whose vision tokens are cached.

    Negatives, masks and dropout are functions of (seed, step, sample), so on a CPU a run resumed
    mid-epoch is bitwise equal to an uninterrupted one. A step is an optimiser step. With
    accumulated gradients, masks and dropout differ between its micro-batches.

    Args:
        model: the reranker; only this is trained and saved.
        objectives: the terms of the loss by name.
        negatives: the miner of hard negatives.
        optimisation: the optimiser and schedule to build.
        mask_id: word-piece id of [MASK].
        steps_per_epoch: optimiser steps that a single rank needs for a pass over the training set.
        checkpoint_fields: what a checkpoint needs to be loaded alone; added to each.
        teacher: a frozen reranker to distil from; neither trained nor saved.
        seed: seed of every draw.
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
        self.dev_recall = recall_metrics("dev/t2i_")
        self.missing_negatives = 0  # since the start of the run
        self._short_batches = 0
        self._stops = False
        self._teacher = [frozen]  # in a list, so that it isn't a submodule

    def on_fit_start(self) -> None:
        """Move the teacher to the model's device."""
        self._teacher = [None if t is None else t.to(self.device) for t in self._teacher]

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """The weighted sum of the objectives on one batch of pairs."""
        micro_batch = batch_idx  # counts from the run's start, resumed or not
        seed_step(self.seed, micro_batch, self.global_rank)
        outputs = self.forward(batch, self.global_step, micro_batch)
        terms = {name: term(outputs) for name, term in self.objectives.items()}
        loss = torch.stack([self.objectives[name].weight * terms[name] for name in terms]).sum()
        log = partial(self.log, sync_dist=num_ranks() > 1)
        with torch.no_grad():
            if outputs.pairs is not None:
                t2i, presence = outputs.pairs.t2i, outputs.pairs.t2i_presence
                first = without_absent(t2i, presence).argmax(1).eq(0)
                log("train/accuracy", mean_of_rows(first.float(), presence))
            if outputs.teacher is not None:
                log("train/teacher_logit_mean", outputs.teacher.t2i.mean())
                log("train/teacher_logit_deviation", outputs.teacher.t2i.std())
        for name, term in terms.items():
            log(f"train/{name}", term.detach())
        log("train/loss", loss.detach())
        return loss

    def forward(self, batch: PairBatch, step: int, micro_batch: int | None = None) -> StepOutputs:
        """The outputs that the objectives read, for this rank's pairs among those of all ranks.

        Masks are drawn per micro-batch, if a step has several of them.
        """
        number = step if micro_batch is None else micro_batch
        self.model.adapter.draw_budget(fraction(self.seed, step, 5))
        batch = to_common_length(batch)
        everyone = JoinedPairs.of(batch)
        mined = negatives = None
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
                mask = masked_positions(text, batch.sample_ids, term.probability, self.seed, number)
        counts = StepCounts.of(mined, mask, batch.text)
        if mined is not None:
            self._count(counts.missing_images + counts.missing_captions, mined)
        return forward_step(
            self.model,
            batch,
            negatives,
            self.needs,
            mask,
            self.mask_id,
            self._teacher[0],
            everyone,
            counts,
        )

    def _count(self, missing: int, mined: Negatives) -> None:
        """Count the negatives that batches lack, and warn sometimes."""
        if not missing:
            return
        asked = mined.images.numel() + mined.captions.numel()
        self.missing_negatives += missing
        self._short_batches += 1
        if self._short_batches.bit_count() == 1 and self.global_rank == 0:  # 1st, 2nd, 4th, 8th, …
            log.warning(
                "short batch no. %d of this run: it has only %d of the %d wrong images and "
                "captions that its %d pairs need (the others have the same image or equal "
                "captions), and is trained on with these. Raise loader.batch_size or lower "
                "negatives.count.",
                self._short_batches,
                asked - missing,
                asked,
                len(mined.images),
            )

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Let `max_time` and others stop the training only after whole optimiser steps.

        From there a resumed run goes on as if it had not stopped.
        """
        self._stops |= self.trainer.should_stop
        is_whole = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        self.trainer.should_stop = self._stops and is_whole

    def on_train_end(self) -> None:
        """Log how many negatives were missing."""
        if self.missing_negatives and self.global_rank == 0:
            log.warning(
                "%d negatives were missing in %d short batches of this run",
                self.missing_negatives,
                self._short_batches,
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with its per-step schedule."""
        return self.optimisation.for_run(self.trainer, self.model, self.steps_per_epoch)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Add what the checkpoint needs to be loaded alone."""
        checkpoint.update(self.checkpoint_fields)
        checkpoint[COUNTS] = [self.missing_negatives, self._short_batches]

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Continue counting where the interrupted run stopped.

        Raises:
            EdjeError: another number of weights was trained in it.
        """
        self.missing_negatives, self._short_batches = checkpoint.get(COUNTS, (0, 0))
        trained = sum(weight.requires_grad for weight in self.model.parameters())
        for state in checkpoint.get("optimizer_states", ()):
            kept = sum(len(group["params"]) for group in state["param_groups"])
            if kept != trained:
                raise EdjeError(
                    f"The training to continue had {kept} weights, this one has {trained}: an "
                    "earlier version also trained weights of the language model that nothing "
                    "reads. Begin a new training with start=checkpoint and start.path=<its run>."
                )
