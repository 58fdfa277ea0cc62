"""Train and run: fill the cache, train, and for task=run evaluate."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.config.resumption import is_finished, steps_trained, was_stopped
from edje.config.run_folder import figure_of
from edje.data.mixture.pretrain import PretrainSource
from edje.data.sources.source import Source
from edje.inference.checkpoint import load_checkpoint
from edje.inference.location import SAVED_BY_A_RUN
from edje.inference.saved_folder import save_folder
from edje.parallel.environment import own_rank
from edje.pipeline.collection import cached_collection
from edje.pipeline.evaluation import evaluated
from edje.pipeline.feed import cached_feed, streamed_feed
from edje.pipeline.preparation import prepare
from edje.pipeline.training import finish, train_reranker
from edje.quiet import quiet_libraries
from edje.tasks.building import backbone_from
from edje.tasks.evaluate import conclude
from edje.tasks.wiring import backbone_builder, cache_of, evaluation_choices, training_of


def run(cfg: DictConfig, folder: Path) -> float | None:
    """`task=train`, and `task=run`, the default, which also evaluates.

    `task=run` returns its `figure_of`. With several ranks, only the first does what comes after the
    training.

    Raises:
        EdjeError: data, stores, checkpoints or options don't fit each other.
    """
    quiet_libraries()
    source: Source = instantiate(cfg.data)
    training = training_of(cfg, source, folder)
    cache, backbone = cache_of(cfg, is_shared=True), backbone_from(cfg.backbone)
    if cfg.task == "run" and is_trained(folder, cfg):  # resumed
        if own_rank() > 0:
            return None
        checkpoint = load_checkpoint(folder / "checkpoints" / "model.ckpt")
    else:
        prepared = prepare(training, backbone, source, folder)
        # All checks are done: now the work that takes hours, the evaluated split first.
        rebuild = backbone_builder(cfg)
        if cfg.task == "run" and (own_rank() == 0 or cache.by_all_ranks):
            split = source.split
            cached_collection(cache, source, backbone, split, store=cfg.store, rebuild=rebuild)
        if isinstance(source, PretrainSource):
            loading = instantiate(cfg.loader, _partial_=True)
            feed = streamed_feed(
                cache, source, backbone, training, prepared, loading, rebuild=rebuild
            )
        else:
            feed = cached_feed(cache, source, backbone, training, prepared, rebuild=rebuild)
        trained, dev = train_reranker(training, prepared, feed, backbone, cache, folder), feed.dev
        del feed, prepared  # the training set, gigabytes
        if trained is None:
            return None
        checkpoint = finish(training, trained, backbone, dev, cache, folder)
    saved = folder / SAVED_BY_A_RUN
    if cfg.task == "train":
        save_folder(checkpoint, saved, with_backbone=False)
        return None
    result = evaluated(checkpoint, source, backbone, cache, **evaluation_choices(cfg))
    save_folder(checkpoint, saved, result.metrics, with_backbone=False)
    conclude(folder, result, cfg.scoring.examples)
    return figure_of(folder)


def is_trained(folder: Path, cfg: DictConfig) -> bool:
    """Whether a run folder's training was finished: with all of its steps, or stopped early."""
    has_all_steps = (steps_trained(folder) or 0) >= cfg.trainer.max_steps
    return is_finished(folder) and (
        has_all_steps or was_stopped(folder, cfg.scoring.get("patience"))
    )
