"""Cache: every image's tokens and every caption's features, and the fitted first stage."""

import json
import logging
from functools import partial
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.backbones.protocol import Backbone
from edje.data.sources.source import Source
from edje.parallel.environment import own_rank
from edje.pipeline.collection import cached_collection
from edje.pipeline.devices import similarity_device
from edje.pipeline.feed import train_and_dev
from edje.pipeline.first_stage import align, first_stage_recall, restore_first_stage
from edje.pipeline.start import Start
from edje.quiet import quiet_libraries
from edje.tasks.building import backbone_from
from edje.tasks.wiring import backbone_builder, cache_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float | None:
    """`task=cache`: fill the stores of train and of the evaluated split.

    Scores the first stage alone on dev (or on the evaluated split if there is no dev), writes the
    result to first_stage.json and returns its t2i R@1 in percent. It is an error if another run is
    writing a store. If a launcher has started several processes, all of them fill the stores, and
    rank 0 scores.
    """
    quiet_libraries()
    source: Source = instantiate(cfg.data)
    backbone: Backbone = backbone_from(cfg.backbone)
    cache, rebuild = cache_of(cfg, is_shared=True), backbone_builder(cfg)
    wait = cache.by_all_ranks  # the ranks wait for one another
    cached = partial(cached_collection, cache, source, backbone, wait=wait, rebuild=rebuild)
    train, dev = train_and_dev(source, cached("train"))
    evaluated = cached(source.split)
    if own_rank() > 0:
        return None
    start: Start = instantiate(cfg.start)
    if projections := start.projections(backbone):
        restore_first_stage(backbone, projections)
    else:
        align(backbone, train, cache, source.dev_seed)
    chosen = evaluated if dev is None else dev
    recalls = first_stage_recall(backbone, chosen, similarity_device(cache.device))
    report = {"dataset": source.name, "split": chosen.split.name, "recall": recalls}
    (folder / "first_stage.json").write_text(json.dumps(report, indent=2))
    for direction, values in recalls.items():
        log.info("first stage on %s, %s: %s", chosen.split.name, direction, values)
    return recalls["t2i"]["recall@1"]
