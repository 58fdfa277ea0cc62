"""Backbone: a small dual encoder trained from scratch on a data set's images and captions."""

import json
import logging
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.backbones.huggingface import HuggingFaceBackbone
from edje.backbones.new_siglip import NewSiglip
from edje.captions import clean_caption
from edje.config.parts import resume_command
from edje.data.datamodules.pixel_datamodule import PixelDataModule, PixelSet
from edje.data.images import check_images, open_image
from edje.data.sources.source import Source, split_digest
from edje.errors import EdjeError
from edje.parallel.launch import other_ranks
from edje.pipeline.trainer import check_trainer, make_trainer, run_logger
from edje.pipeline.training import last_checkpoint, progress
from edje.quiet import quiet_libraries
from edje.records import DIRECTIONS, RetrievalSplit
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.tasks.building import part_from
from edje.tasks.wiring import logger_of, trainer_arguments
from edje.training.callbacks import DevelopmentScore, ResumableCheckpoint
from edje.training.dual_encoder import DualEncoderModule, embed_split

log = logging.getLogger(__name__)

CUTOFFS = (1, 5, 10, 20)


def run(cfg: DictConfig, folder: Path) -> float | None:
    """`task=backbone`: writes <run folder>/backbone; returns t2i R@1 in percent on data.split.

    The curve on the evaluated split stands in logs/metrics.csv; nothing is chosen by it: the last
    weights are the ones that are saved.

    Raises:
        EdjeError: the captions of the images are not equal in number.
    """
    quiet_libraries()
    arguments = trainer_arguments(cfg)
    check_trainer(arguments)
    logger = run_logger(logger_of(cfg), folder)
    source: Source = instantiate(cfg.data)
    splits = {
        name: check_images(source.read(name), source.bad_images) for name in ("train", source.split)
    }
    texts = {
        name: [clean_caption(caption.text) for caption in split.captions]
        for name, split in splits.items()
    }
    torch.manual_seed(cfg.seed)
    encoder: NewSiglip = part_from("backbone", cfg.backbone, texts["train"])
    train = pixel_set(encoder, splits["train"], texts["train"])
    held_out = pixel_set(encoder, splits[source.split], texts[source.split])

    data: PixelDataModule = instantiate(cfg.loader, train, cfg.seed)
    module = DualEncoderModule(
        encoder.model,
        part_from("objective.contrastive", cfg.objective.contrastive),
        instantiate(cfg.optim),
        max(len(train.pixels) // data.batch_size // cfg.trainer.accumulate_grad_batches, 1),
        cfg.seed,
    )
    callbacks: list[L.Callback] = [
        *progress(arguments),
        DevelopmentScore(
            lambda: recall(module, held_out)["t2i"]["recall@1"],
            lambda: None,
            cfg.scoring.dev_every or cfg.trainer.max_steps,
            f"{source.split}/recall@1",
        ),
        ResumableCheckpoint(
            folder / "checkpoints", cfg.checkpoint_every, resume_command(cfg, folder)
        ),
    ]
    trainer = make_trainer(arguments, folder, logger, callbacks)
    with other_ranks(trainer, folder):
        trainer.fit(module, data, ckpt_path=last_checkpoint(folder), weights_only=True)
    if not trainer.is_global_zero:
        return None

    encoder.save(folder / "backbone")
    saved = HuggingFaceBackbone(pretrained=str(folder / "backbone"))
    module.model.load_state_dict(saved.model.state_dict())  # judged as saved, in 16 bit
    figures = recall(module, held_out)
    metrics = {
        direction: {"first_stage": {key: {"value": value} for key, value in shares.items()}}
        for direction, shares in figures.items()
    }
    facts = {
        "dataset": source.name,
        "split": source.split,
        "split_digest": split_digest(splits[source.split]),
        "seed": cfg.seed,
        "num_images": len(held_out.pixels),
        "num_captions": len(texts[source.split]),
        "label": f"trained on {source.name} train ({len(train.pixels):,} images)",
    }
    (folder / "metrics.json").write_text(json.dumps({**metrics, **facts}, indent=2) + "\n")
    for direction, shares in figures.items():
        log.info("%s %s: %s", source.split, direction, shares)
    log.info("the backbone: backbone.pretrained=%s", folder / "backbone")
    return figures["t2i"]["recall@1"]


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
