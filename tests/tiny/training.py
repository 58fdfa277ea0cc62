"""A few steps of training over tiny pairs, by Lightning's loop."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.nn import functional as F

from edje.data.datamodules.cached_datamodule import CachedLoading, CachedTokenDataModule
from edje.data.datamodules.stored_pairs import TrainingSet
from edje.inference.checkpoint import checkpoint_fields
from edje.language_model import tokenize
from edje.objectives.masked_language import MaskedLanguage
from edje.objectives.matching import Matching
from edje.objectives.negatives import HardNegatives
from edje.tokens.codec import FloatCodec
from edje.training.callbacks import ResumableCheckpoint
from edje.training.compilation import compile_layers
from edje.training.optimisation import Optimisation
from edje.training.reranker_module import RerankerModule
from tests.tiny.rerankers import FACTS, tiny_checkpoint
from tests.tiny.words import tiny_captions, tiny_tokenizer

# Of Lightning and torch, about so small a training.
WARNINGS = (
    "ignore:.*does not have many workers.*",
    "ignore:.*`isinstance.treespec, LeafSpec.`.*",
    "ignore:.*This process .* is multi-threaded, use of fork.*",
    "ignore:.*use_reentrant.*",
)


class StoreInMemory:
    """What the datamodule needs of a token store; exact."""

    def __init__(self, tokens):
        self.codec = FloatCodec("fp32", *tokens.shape[1:], torch.float32)
        self.cells = self.codec.encode(tokens)

    def read_cells(self, rows):
        return self.cells[rows]


def training_set(images=12) -> TrainingSet:
    """Two captions per image."""
    generator = torch.Generator().manual_seed(3)
    return TrainingSet(
        store=StoreInMemory(
            torch.randn(images, FACTS.num_tokens, FACTS.token_width, generator=generator)
        ),
        store_rows=torch.arange(images),
        text=tokenize(tiny_tokenizer(), tiny_captions(2 * images)),
        image_of_caption=torch.arange(2 * images) // 2,
        caption_keys=torch.arange(2 * images),
        image_embeddings=F.normalize(torch.randn(images, 12, generator=generator), dim=1),
        text_embeddings=F.normalize(torch.randn(2 * images, 12, generator=generator), dim=1),
    )


def module(steps, *, dropout=0.1, teacher=None, terms=None, lr=1e-3) -> RerankerModule:
    torch.manual_seed(11)
    checkpoint = tiny_checkpoint()
    for part in checkpoint.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = dropout
    return RerankerModule(
        checkpoint.model,
        terms or {"matching": Matching(), "masked_language": MaskedLanguage()},
        HardNegatives(count=2, pool=4),
        Optimisation(lr=lr, warmup_steps=2),
        mask_id=4,
        steps_per_epoch=steps,
        checkpoint_fields=checkpoint_fields(checkpoint),
        teacher=teacher,
        seed=5,
    )


def quiet_trainer(folder: Path, steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    """One that writes nothing but last.ckpt, and that when it is stopped."""
    return L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(folder),
        callbacks=[ResumableCheckpoint(folder, 1000, "resume"), *callbacks],
        **options,
    )


class StopAt(L.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, batch: int, number: int = signal.SIGTERM):
        self.batch, self.number = batch, number

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == self.batch:
            os.kill(os.getpid(), self.number)


def fit(
    folder: Path,
    steps,
    *,
    workers=0,
    callbacks=(),
    accumulate=1,
    resume=None,
    batch_size=6,
    precision="32-true",
    clip=1.0,
    backend=None,
    **choices,
):
    trained = module(steps, **choices)
    if backend:
        compile_layers(trained.model, backend)
    loading = CachedLoading(batch_size=batch_size, num_workers=workers)
    data = CachedTokenDataModule(training_set(), None, 5, loading)
    trainer = quiet_trainer(
        folder,
        steps,
        *callbacks,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        precision=precision,
    )
    trainer.fit(trained, data, ckpt_path=resume, weights_only=True)
    return trained


class GradientNorms(L.Callback):
    """The norm of all gradients as the optimiser used them."""

    def __init__(self):
        self.seen = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if gradients:
            self.seen.append(float(torch.nn.utils.get_total_norm(gradients)))
