"""A small dual encoder trained from scratch on a data set's images and captions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.new_siglip import NewSiglip
from edje.captions import clean_caption
from edje.data.datamodules.pixel_datamodule import PixelDataModule, PixelSet
from edje.data.images import check_images
from edje.data.sources.source import Source, split_digest
from edje.errors import EdjeError
from edje.images.decoder import open_image
from edje.objectives.contrastive import Contrastive
from edje.parallel.launch import other_ranks
from edje.pipeline.trainer import check_trainer, make_trainer, run_loggers
from edje.pipeline.training import last_checkpoint, progress, steps_per_epoch
from edje.records import DIRECTIONS, RetrievalSplit
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.training.callbacks import DevelopmentScore, ResumableCheckpoint
from edje.training.dual_encoder import DualEncoderModule, embed_split
from edje.training.optimisation import Optimisation
from edje.training.step_figures import StepFigures

CUTOFFS = (1, 5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class BackboneTraining:
    """How a dual encoder is made and trained.

    Args:
        build: makes it of the training captions, whose words are its vocabulary.
        loading: makes batches of the decoded training split and the seed.
        objective: the contrastive loss.
        optimisation: the optimiser and its schedule.
        trainer: arguments of lightning.Trainer, as of `Training`.
        dev_every: optimiser steps between two scores on the evaluated split; 0: one at the end.
        seed: of weights, order and choice of captions.
        checkpoint_every: optimiser steps between two checkpoints to resume from.
        loggers: make Lightning's loggers, given save_dir, name and version.
        resume_command: what goes on with a training that was interrupted, for the message.
    """

    build: Callable[[list[str]], NewSiglip]
    loading: Callable[[PixelSet, int], PixelDataModule]
    objective: Contrastive
    optimisation: Optimisation
    trainer: Mapping[str, Any]
    dev_every: int = 0
    seed: int = 0
    checkpoint_every: int = 200
    loggers: Sequence[Callable[..., Logger]] = ()
    resume_command: str = "the same call"


def train_backbone(
    training: BackboneTraining, source: Source, folder: Path
) -> dict[str, Any] | None:
    """Train and save into <folder>/backbone; the first stage's recall on the evaluated split.

    The curve on that split stands in logs/metrics.csv; nothing is chosen by it: the last weights
    are the ones that are saved. Ranks other than 0 get None.

    Raises:
        EdjeError: the captions of the images are not equal in number.
    """
    check_trainer(training.trainer)
    loggers = run_loggers(training.loggers, folder)
    splits = {
        name: check_images(source.read(name), source.bad_images) for name in ("train", source.split)
    }
    texts = {
        name: [clean_caption(caption.text) for caption in split.captions]
        for name, split in splits.items()
    }
    torch.manual_seed(training.seed)
    encoder = training.build(texts["train"])
    train = pixel_set(encoder, splits["train"], texts["train"])
    held_out = pixel_set(encoder, splits[source.split], texts[source.split])

    data = training.loading(train, training.seed)
    module = DualEncoderModule(
        encoder.model,
        training.objective,
        training.optimisation,
        steps_per_epoch(len(train.pixels), data.batch_size, training.trainer),
        training.seed,
    )
    callbacks: list[L.Callback] = [
        StepFigures(training.optimisation.lr),
        *progress(training.trainer),
        DevelopmentScore(
            lambda: recall(module, held_out)["t2i"]["recall@1"],
            lambda: None,
            training.dev_every or training.trainer["max_steps"],
            f"{source.split}/recall@1",
        ),
        ResumableCheckpoint(
            folder / "checkpoints", training.checkpoint_every, training.resume_command
        ),
    ]
    trainer = make_trainer(training.trainer, folder, loggers, callbacks)
    with other_ranks(trainer, folder):
        trainer.fit(module, data, ckpt_path=last_checkpoint(folder), weights_only=True)
    if not trainer.is_global_zero:
        return None

    encoder.save(folder / "backbone")
    saved = HuggingFaceBackbone(pretrained=str(folder / "backbone"))
    module.model.load_state_dict(saved.model.state_dict())  # judged as saved, in 16 bit
    metrics = {
        direction: {"first_stage": {key: {"value": value} for key, value in shares.items()}}
        for direction, shares in recall(module, held_out).items()
    }
    facts = {
        "dataset": source.name,
        "split": source.split,
        "split_digest": split_digest(splits[source.split]),
        "seed": training.seed,
        "num_images": len(held_out.pixels),
        "num_captions": len(texts[source.split]),
        "label": f"trained on {source.name} train ({len(train.pixels):,} images)",
    }
    return {**metrics, **facts}


def pixel_set(encoder: NewSiglip, split: RetrievalSplit, texts: list[str]) -> PixelSet:
    """A split decoded and resized in memory, with the word ids of its captions.

    Raises:
        EdjeError: the images don't have the same number of captions each.
    """
    captions, rest = divmod(len(texts), len(split.images))
    counts = torch.bincount(torch.tensor(split.image_of_caption()))
    if rest or counts.min() != counts.max():
        raise EdjeError(
            f"{split.dataset}: the images of split {split.name!r} have {int(counts.min())} to "
            f"{int(counts.max())} captions; task=backbone needs an equal number for each."
        )
    pixels = torch.stack([encoder.resized(open_image(image.path)) for image in split.images])
    word_ids = encoder.word_ids(texts)
    return PixelSet(pixels, word_ids.view(len(split.images), captions, -1))


def recall(module: DualEncoderModule, split: PixelSet) -> dict[str, dict[str, float]]:
    """First-stage recall of both directions in percent."""
    count, captions, length = split.word_ids.shape
    images, texts = embed_split(module, split.pixels, split.word_ids.view(-1, length))
    owner = torch.arange(count, device=images.device).repeat_interleave(captions)
    found: dict[str, dict[str, float]] = {}
    for direction in DIRECTIONS:
        lists = candidate_lists(images, texts, owner, direction, max(CUTOFFS))
        shares = recall_at_k(first_hit_ranks(lists.scores, lists.relevant), CUTOFFS)
        found[direction] = {f"recall@{k}": round(100 * share, 2) for k, share in shares.items()}
    return found
