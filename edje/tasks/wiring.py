"""From a configuration to the services' arguments: typed records, and objects built by Hydra."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from edje.backbones.protocol import Backbone
from edje.config.parts import resume_command
from edje.data.datamodules.cached_datamodule import CachedLoading
from edje.data.mixture.pretrain import PretrainSource
from edje.data.sources.source import Source
from edje.errors import EdjeError
from edje.inference.checkpoint import AdapterSpecification
from edje.parallel.environment import launched
from edje.pipeline.preparation import Training
from edje.pipeline.token_cache import Cache
from edje.pipeline.trained import Published
from edje.pipeline.trainer import trainer_devices
from edje.pipeline.trainer_arguments import check_arguments
from edje.tasks.building import backbone_from, objectives_from


def cache_of(cfg: DictConfig, *, is_shared: bool = False) -> Cache:
    """The stores' folder, how they are written, and on which devices.

    `is_shared`: if a launcher has started several processes, all of them run this task.

    Raises:
        EdjeError: this machine doesn't have the trainer's devices.
    """
    by_all_ranks = is_shared and launched() is not None
    return Cache(Path(cfg.cache_dir), instantiate(cfg.storage), devices_of(cfg), by_all_ranks)


def devices_of(cfg: DictConfig) -> tuple[torch.device, ...]:
    """The devices that the trainer is configured for, whatever the task.

    Raises:
        EdjeError: this machine doesn't have them.
    """
    return trainer_devices(plain(cfg.trainer))


def published_of(cfg: DictConfig) -> Published:
    """The facts that a published checkpoint lacks, from the configuration."""
    return Published(
        language_model=cfg.joint.get("pretrained"),
        attention=cfg.joint.get("attention", "sdpa"),
        vision_tower=str(cfg.backbone.get("pretrained", cfg.backbone._target_)),
        config=OmegaConf.to_yaml(cfg, resolve=False),
    )


def backbone_builder(cfg: DictConfig) -> "partial[Backbone]":
    """A function that builds the backbone, also in another process."""
    return partial(backbone_from, plain(cfg.backbone))


def evaluation_choices(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of `evaluated`, except checkpoint, source, backbone and cache."""
    return {
        "scoring": instantiate(cfg.scoring),
        "score": cfg.score,
        "seed": cfg.seed,
        "store": cfg.store,
        "rebuild": backbone_builder(cfg),
        "rebuild_command": f"edje task=compress checkpoint={cfg.checkpoint or '<this run>'}",
    }


def training_of(cfg: DictConfig, source: Source, folder: Path) -> Training:
    """How the configured reranker is built and trained in a run folder, with any kind of data.

    Raises:
        EdjeError: a run doesn't support an argument of the trainer or an option.
    """
    choices = plain(cfg.adapter)
    stored = not isinstance(source, PretrainSource)
    return Training(
        language_model=partial(instantiate, cfg.joint),
        adapter=AdapterSpecification(choices.pop("_target_"), choices),
        objectives=objectives_from(cfg.objective),
        negatives=instantiate(cfg.negatives),
        optimisation=instantiate(cfg.optim),
        trainer=trainer_arguments(cfg),
        loading=instantiate(cfg.loader) if stored else CachedLoading(),
        scoring=instantiate(cfg.scoring),
        score=cfg.score,
        start=instantiate(cfg.start),
        teacher=cfg.teacher,
        miner=cfg.miner,
        seed=cfg.seed,
        checkpoint_every=cfg.checkpoint_every,
        compile_training=cfg.compile_training,
        gradient_checkpointing=cfg.gradient_checkpointing,
        loggers=loggers_of(cfg),
        config=OmegaConf.to_yaml(cfg, resolve=False),
        resume_command=resume_command(cfg, folder),
        published=published_of(cfg),
    )


def trainer_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of lightning.Trainer, with components built.

    Raises:
        EdjeError: a run doesn't support one of them.
    """
    arguments = plain(cfg.trainer)
    check_arguments({name: value for name, value in arguments.items() if name != "_target_"})
    try:
        made = instantiate(cfg.trainer, _convert_="all", _partial_=True)
    except InstantiationException as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise EdjeError(f"trainer: Lightning rejects its arguments: {said}") from error
    if made.func is not L.Trainer:
        raise EdjeError(
            f"trainer._target_={arguments['_target_']}: a run is trained by lightning.Trainer. "
            "Leave trainer._target_ out."
        )
    return dict(made.keywords)


def loggers_of(cfg: DictConfig) -> list[Callable[..., Logger]]:
    """Functions that build the configured loggers: several by name, or one component, as before."""
    if cfg.logger is None:
        return []
    nodes = [cfg.logger] if "_target_" in cfg.logger else cfg.logger.values()
    return [instantiate(node, _partial_=True) for node in nodes if node is not None]


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as a separate dictionary, with every interpolation resolved."""
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}
