"""Backbone: a small dual encoder trained from scratch on a data set's images and captions."""

import json
import logging
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.config.parts import resume_command
from edje.pipeline.backbone_training import BackboneTraining, train_backbone
from edje.quiet import quiet_libraries
from edje.records import DIRECTIONS
from edje.tasks.building import part_from
from edje.tasks.wiring import loggers_of, trainer_arguments

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float | None:
    """`task=backbone`: writes <run folder>/backbone; returns t2i R@1 in percent on data.split.

    Raises:
        EdjeError: as `train_backbone`.
    """
    quiet_libraries()
    training = BackboneTraining(
        build=partial(part_from, "backbone", cfg.backbone),
        loading=partial(instantiate, cfg.loader),
        objective=part_from("objective.contrastive", cfg.objective.contrastive),
        optimisation=instantiate(cfg.optim),
        trainer=trainer_arguments(cfg),
        dev_every=cfg.scoring.dev_every,
        seed=cfg.seed,
        checkpoint_every=cfg.checkpoint_every,
        loggers=loggers_of(cfg),
        resume_command=resume_command(cfg, folder),
    )
    source = instantiate(cfg.data)
    metrics = train_backbone(training, source, folder)
    if metrics is None:
        return None
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for direction in DIRECTIONS:
        shares = {k: share["value"] for k, share in metrics[direction]["first_stage"].items()}
        log.info("%s %s: %s", source.split, direction, shares)
    log.info("the backbone: backbone.pretrained=%s", folder / "backbone")
    recall: float = metrics["t2i"]["first_stage"]["recall@1"]["value"]
    return recall
