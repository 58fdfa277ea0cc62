"""Train: an adapter and a joint encoder on cached tokens, into the run folder's checkpoints."""

import gc
import logging
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from edje.backbones.protocol import Backbone
from edje.config.choices import STARTS
from edje.data.datamodules.cached_datamodule import CachedTokenDataModule, caption_keys
from edje.data.datamodules.stored_pairs import TrainingSet
from edje.data.mixture.pretrain import PretrainSource
from edje.data.sources.holdout import hold_out
from edje.data.sources.source import Source
from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    build_reranker,
    checkpoint_fields,
    load_checkpoint,
    save_checkpoint,
    warm_start,
)
from edje.language_model import MAX_TRAINING_TOKENS, LanguageModel, tokenize
from edje.parallel.environment import own_rank
from edje.parallel.launch import fit
from edje.pipeline.canonical import canonical_start
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.devices import devices_of, make_current, own_device, similarity_device
from edje.pipeline.feed import Feed, streamed_feed
from edje.pipeline.finding import find_store, open_store
from edje.pipeline.first_stage import (
    align,
    embeddings,
    first_stage_lists,
    first_stage_state,
)
from edje.pipeline.fitted_sum import fitted_sums
from edje.pipeline.mining import mined_images
from edje.pipeline.scoring import Evaluation, rerank_collection
from edje.pipeline.statistics import fix_statistics
from edje.pipeline.trained import check_early, facts_of, load_trained, trained_content
from edje.pipeline.trainer import check_training, make_trainer, run_logger
from edje.quiet import quiet_libraries
from edje.records import CandidateList
from edje.tasks.compress import compressed_fingerprints
from edje.tokens.manifest import STORE_FILE
from edje.tokens.store import TokenStore
from edje.training.callbacks import ResumableCheckpoint, StepProgress
from edje.training.compilation import compile_layers
from edje.training.data_wait import DataWait
from edje.training.development_recall import DevelopmentRecall
from edje.training.gradient_checkpointing import checkpoint_layers
from edje.training.reranker_module import RerankerModule

log = logging.getLogger(__name__)
DEV_STRIDE = 3  # while training, dev is scored on every third caption
DEV_FIGURE = "dev/t2i_recall@1"
SHOWN = ("train/accuracy", "train/loss", DEV_FIGURE)  # beside the bar


def run(cfg: DictConfig, folder: Path) -> None:
    """`task=train`: train on the train split's cached tokens, made now where they are missing."""
    quiet_libraries()
    check_training(cfg)
    train_reranker(cfg, folder, instantiate(cfg.backbone))


def training_collections(
    cfg: DictConfig, source: Source, backbone: Backbone, *, wait: bool = True
) -> tuple[Collection, Collection | None]:
    """The train split without its dev images, and dev (None where no images are held back).

    Raises:
        EdjeError: the split is too small, which is found before anything is encoded.
    """
    split = source.read("train")
    if source.dev_images:
        split, _ = hold_out(split, source.dev_images, source.dev_seed)
    if cfg.task != "cache" and len(split.captions) < cfg.loader.get("batch_size", 1):
        raise EdjeError(
            f"loader.batch_size={cfg.loader.batch_size}: {source.name} has {len(split.captions)} "
            "captions to train on. Lower loader.batch_size."
        )
    train = cached_collection(cfg, source, backbone, "train", wait=wait)
    if source.dev_images == 0:
        return train, None
    rest, dev = hold_out(train.split, source.dev_images, source.dev_seed)
    return train.restricted(rest), train.restricted(dev)


def cached_feed(
    cfg: DictConfig, source: Source, backbone: Backbone, evaluation: Evaluation
) -> Feed:
    """The train split from its stores, the first stage fitted where it needs to be."""
    train, dev = training_collections(cfg, source, backbone)
    align(backbone, train, Path(cfg.cache_dir), source.dev_seed)
    images, captions = embeddings(backbone, train)

    def batches(words: LanguageModel, teacher: Checkpoint | None) -> CachedTokenDataModule:
        mined = mined_images(cfg, train, images, captions, backbone)
        taught = None if teacher is None else teacher_tokens(cfg, source, teacher, evaluation)
        return datamodule(cfg, train, words, images, captions, mined, taught)

    return Feed(
        train=train,
        num_pairs=len(train.texts),
        first_stage=(images, captions, train.image_of_caption),
        dev=dev,
        datamodule=batches,
    )


def train_reranker(cfg: DictConfig, folder: Path, backbone: Backbone) -> Checkpoint | None:
    """Train (or continue) the configured reranker; writes and returns checkpoints/model.ckpt.

    On several devices rank 0 does so; the other ranks get None.

    Raises:
        EdjeError: data, stores, teacher or options don't fit each other.
    """
    evaluation: Evaluation = instantiate(cfg.evaluation)
    trained = trained_on_all_ranks(cfg, folder, backbone, evaluation)
    if trained is None:
        return None
    gc.collect()  # a Trainer is part of circles, and holds the training set: gigabytes
    checkpoint, dev = trained
    return finish(cfg, checkpoint, backbone, dev, evaluation, folder / "checkpoints")


def trained_on_all_ranks(
    cfg: DictConfig, folder: Path, backbone: Backbone, evaluation: Evaluation
) -> tuple[Checkpoint, Collection | None] | None:
    """The reranker after its last step, and dev to choose on; None on ranks other than 0.

    Raises:
        EdjeError: as `train_reranker`.
    """
    checkpoints, logger = folder / "checkpoints", run_logger(cfg, folder)
    source: Source = instantiate(cfg.data)
    check_early(cfg, backbone)
    trained_on = source.trained_on if isinstance(source, PretrainSource) else source.name
    torch.manual_seed(cfg.seed)  # fresh weights are a function of the seed
    start = new_checkpoint(cfg, backbone, trained_on)
    if cfg.initial is not None and cfg.initial not in STARTS:
        content = trained_content(cfg, "initial", backbone)
        fresh = warm_start(start.model, Path(cfg.initial), content)
        parts = dict.fromkeys(name.split(".")[0] for name in fresh)
        log.info("warm start from %s; fresh: %s", cfg.initial, ", ".join(parts) or "nothing")
    if cfg.gradient_checkpointing:
        checkpoint_layers(start.model)
    if cfg.compile is not None:
        compile_layers(start.model, cfg.compile, devices_of(cfg.trainer)[0])
    teacher = frozen_teacher(cfg, start, backbone)

    # All that can be refused has been: now what takes hours, the evaluated split first.
    if cfg.task == "run" and own_rank() == 0:
        cached_collection(cfg, source, backbone, source.split, store=cfg.store)
    if isinstance(source, PretrainSource):
        feed = streamed_feed(cfg, source, backbone)
    else:
        feed = cached_feed(cfg, source, backbone, evaluation)
    start = replace(start, first_stage=first_stage_state(backbone))
    if feed.first_stage is not None:
        known = feed.train or feed.dev
        assert known is not None
        folder_of = Path(cfg.cache_dir) / f"{known.split.dataset}-{known.split.name}"
        device = similarity_device(own_device(cfg.trainer))
        fix_statistics(start.model, *feed.first_stage, folder_of, device)
    if cfg.initial in STARTS:
        assert feed.train is not None  # check_choices
        if not (checkpoints / "last.ckpt").is_file():  # whose weights would replace it
            seed = cfg.seed if cfg.initial == "contrastive" else None
            canonical_start(start, feed.train, seed, own_device(cfg.trainer))
    data = feed.datamodule(start.language_model, teacher)
    module = RerankerModule(
        start.model,
        {name: instantiate(node) for name, node in cfg.objective.items() if node is not None},
        instantiate(cfg.negatives),
        instantiate(cfg.optim),
        start.language_model.tokenizer.mask_token_id,
        max(feed.num_pairs // data.batch_size // cfg.trainer.accumulate_grad_batches, 1),
        checkpoint_fields(start),
        None if teacher is None else teacher.model,
        cfg.seed,
    )
    callbacks: list[L.Callback] = [
        ResumableCheckpoint(checkpoints, cfg.checkpoint_every, f"python run.py resume={folder}")
    ]
    callbacks += [*progress(cfg), DataWait()]
    if feed.dev is not None and evaluation.dev_every:
        callbacks.insert(
            0, development_score(start, backbone, feed.dev, evaluation, checkpoints / "best.ckpt")
        )
    if not fit(make_trainer(cfg, folder, logger, callbacks), module, data, folder):
        return None
    return start, feed.dev


def progress(cfg: DictConfig) -> list[L.Callback]:
    """The bar of a training run, unless the trainer is told to show none."""
    return [] if cfg.trainer.get("enable_progress_bar") is False else [StepProgress(SHOWN)]


def new_checkpoint(cfg: DictConfig, backbone: Backbone, dataset: str) -> Checkpoint:
    """The configured reranker with fresh weights, and all that its checkpoints will carry."""
    choices = OmegaConf.to_container(cfg.adapter, resolve=True)
    assert isinstance(choices, dict)
    values = {str(name): value for name, value in choices.items()}
    adapter = AdapterSpecification(values.pop("_target_"), values)
    facts = facts_of(backbone)
    language_model: LanguageModel = instantiate(cfg.joint)
    return Checkpoint(
        model=build_reranker(adapter, facts, language_model, cfg.score == "residual"),
        language_model=language_model,
        facts=facts,
        adapter=adapter,
        config=OmegaConf.to_yaml(cfg, resolve=False),
        backbone=backbone.identity(),
        label=f"{dataset} train",
        first_stage={},
        fusion={},
    )


def datamodule(
    cfg: DictConfig,
    train: Collection,
    language_model: LanguageModel,
    images: torch.Tensor,
    captions: torch.Tensor,
    mined: torch.Tensor | None,
    taught: TokenStore | None,
) -> CachedTokenDataModule:
    """The batches of the run."""
    ids = [image.image_id for image in train.split.images]
    return instantiate(
        cfg.loader,
        TrainingSet(
            store=train.store,
            store_rows=train.store_rows,
            text=tokenize(language_model.tokenizer, train.texts, MAX_TRAINING_TOKENS),
            image_of_caption=train.image_of_caption,
            caption_keys=caption_keys(train.texts),
            image_embeddings=images,
            text_embeddings=captions,
            teacher=taught,
            teacher_rows=None if taught is None else taught.rows_of(ids),
        ),
        mined,
        cfg.seed,
    )


def frozen_teacher(cfg: DictConfig, student: Checkpoint, backbone: Backbone) -> Checkpoint | None:
    """The teacher to distil from; None where no objective asks for one.

    Raises:
        EdjeError: distillation without a teacher, or a teacher of other tokens or words.
    """
    distils = cfg.objective.get("distillation") is not None
    if not distils:
        return None
    if cfg.teacher is None:
        raise EdjeError(
            "objective.distillation needs teacher=<run folder or .ckpt of a trained reranker>. "
            "Give one, or leave distillation out: objective=[matching,masked_language,…]."
        )
    teacher = load_trained(cfg, "teacher", backbone)
    words = [one.language_model.tokenizer.get_vocab() for one in (teacher, student)]
    if words[0] != words[1]:
        raise EdjeError(
            f"teacher={cfg.teacher}: its tokenizer differs from joint's, so it can't read this "
            "run's captions. Use a language model with the same tokenizer."
        )
    if teacher.model.residual is not None:
        log.info("the teacher adds the first-stage score to its logits")
    return teacher


def teacher_tokens(
    cfg: DictConfig, source: Source, teacher: Checkpoint, evaluation: Evaluation
) -> TokenStore | None:
    """The teacher's own tokens of the train split, if task=compress has stored them."""
    split = source.read("train")
    fingerprints = compressed_fingerprints(cfg, teacher, split, evaluation.codec)
    folder, _ = find_store(Path(cfg.cache_dir), source.name, split.name, "compressed", fingerprints)
    if not (folder / STORE_FILE).is_file():
        return None
    log.info("the teacher's tokens come from %s; its adapter doesn't run", folder)
    return open_store(folder, fingerprints)


def development_score(
    current: Checkpoint, backbone: Backbone, dev: Collection, evaluation: Evaluation, path: Path
) -> DevelopmentRecall:
    """A callback that keeps the weights of best t2i recall@1 on dev."""
    from edje.retrieval.metrics import first_hit_ranks

    @cache
    def first() -> list[CandidateList]:  # they are the same each time
        device = similarity_device(next(current.model.parameters()).device)
        return first_stage_lists(backbone, dev, evaluation.candidates, ("t2i",), device=device)

    def ranks() -> torch.Tensor:
        reranked, *_ = rerank_collection(
            current,
            backbone,
            dev,
            evaluation,
            directions=("t2i",),
            first=first(),
            stride=DEV_STRIDE,
        )
        lists = reranked["t2i"]
        return first_hit_ranks(lists.final, lists.first.relevant)

    def keep() -> None:
        save_checkpoint(current, path)

    return DevelopmentRecall(ranks, keep, evaluation.dev_every, DEV_FIGURE)


def finish(
    cfg: DictConfig,
    trained: Checkpoint,
    backbone: Backbone,
    dev: Collection | None,
    evaluation: Evaluation,
    checkpoints: Path,
) -> Checkpoint:
    """Write model.ckpt: the best weights on dev or else the last; for score=sum its weights too."""
    best = checkpoints / "best.ckpt"
    if best.is_file():
        trained = load_checkpoint(best)
    trained.model.eval()
    if dev is not None and cfg.score == "sum":
        devices = devices_of(cfg.trainer)
        trained.model.to(make_current(devices[0]))  # Lightning took it back to the CPU
        sums = fitted_sums(trained, backbone, dev, evaluation, devices)
        trained = replace(trained, fusion=sums)
        trained.model.cpu()
    save_checkpoint(trained, checkpoints / "model.ckpt")
    if best.is_file():
        shutil.copyfile(checkpoints / "model.ckpt", best)
    return trained
