"""Training as a run does it: Lightning's loop over a token store, on the GPU where there is one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar

from edje.data.datamodules.cached_datamodule import CachedLoading, CachedTokenDataModule
from edje.data.datamodules.stored_pairs import TrainingSet
from edje.models.edje import EDJE
from edje.objectives.alignment import Alignment
from edje.objectives.distillation import Distillation
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.objectives.outputs import Objective
from edje.objectives.text_recovery import TextRecovery
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.gpu.sizes import ACCELERATOR, BATCH, IMAGES, RawTokens, embeddings, texts

OBJECTIVES: dict[str, type[Objective]] = {
    "matching": Matching,
    "masked_language": MaskedLanguage,
    "text_recovery": TextRecovery,
    "alignment": Alignment,
    "distillation": Distillation,
}
USUAL = ("matching", "masked_language", "text_recovery")


@dataclass(frozen=True)
class Fitted:
    """What a run of a few steps leaves."""

    loss: float  # of the last step
    moved: float  # the largest change of a weight
    device: torch.device  # of the model afterwards


def training_set(raw: RawTokens) -> TrainingSet:
    """Two captions per image."""
    captions = torch.arange(2 * IMAGES)
    return TrainingSet(
        store=raw.store,
        store_rows=torch.arange(IMAGES),
        text=texts(2 * IMAGES),
        image_of_caption=captions // 2,
        caption_keys=captions,
        image_embeddings=embeddings(IMAGES),
        text_embeddings=embeddings(2 * IMAGES),
    )


def fit(
    model: EDJE,
    raw: RawTokens,
    folder: Path,
    terms: Sequence[str] = USUAL,
    *,
    steps: int = 3,
    precision: str = "bf16-mixed",
    strategy: str = "auto",
    teacher: EDJE | None = None,
    workers: int = 0,
    batch: int = BATCH,
    callbacks: Sequence[L.Callback] = (),
) -> Fitted:
    """Train for a few steps."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    module = RerankerModule(
        model,
        {name: OBJECTIVES[name]() for name in terms},
        HardNegatives(count=2, pool=3),
        Optimisation(lr=1e-3, warmup_steps=1),
        mask_id=4,
        steps_per_epoch=steps,
        checkpoint_fields={},
        teacher=teacher,
    )
    trainer = L.Trainer(
        max_steps=steps,
        accelerator=ACCELERATOR,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        strategy=strategy,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=any(isinstance(one, ProgressBar) for one in callbacks),
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
        callbacks=list(callbacks),
    )
    loading = CachedLoading(batch_size=batch, num_workers=workers)
    data = CachedTokenDataModule(training_set(raw), None, 0, loading)
    trainer.fit(module, data)
    after = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    return Fitted(
        loss=float(trainer.callback_metrics["train/loss"]),
        moved=max(float((after[name] - before[name]).abs().max()) for name in before),
        device=next(model.parameters()).device,
    )
