"""Cache: every image's tokens and every caption's features, and the fitted first stage."""

import json
import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.backbones.protocol import Backbone
from edje.config.building import backbone_from
from edje.data.sources.source import Source
from edje.pipeline.collection import Collection, cached_collection
from edje.pipeline.devices import own_device, similarity_device
from edje.pipeline.first_stage import align, first_stage_lists
from edje.quiet import quiet_libraries
from edje.retrieval.metrics import first_hit_ranks, recall_at_k
from edje.tasks.train import training_collections

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=cache`: fill the stores of train and of the evaluated split.

    Scores the first stage alone on dev (or on the evaluated split where there is no dev), writes
    it to first_stage.json and returns its t2i R@1 in percent. A store that another run is just
    writing is an error.
    """
    quiet_libraries()
    source: Source = instantiate(cfg.data)
    backbone: Backbone = backbone_from(cfg.backbone)
    train, dev = training_collections(cfg, source, backbone, wait=False)
    evaluated = cached_collection(cfg, source, backbone, source.split, wait=False)
    align(backbone, train, Path(cfg.cache_dir), source.dev_seed)
    chosen = evaluated if dev is None else dev
    device = similarity_device(own_device(cfg.trainer))
    recalls = first_stage_recall(backbone, chosen, device)
    report = {"dataset": source.name, "split": chosen.split.name, "recall": recalls}
    (folder / "first_stage.json").write_text(json.dumps(report, indent=2))
    for direction, values in recalls.items():
        log.info("first stage on %s, %s: %s", chosen.split.name, direction, values)
    return recalls["t2i"]["recall@1"]


def first_stage_recall(
    backbone: Backbone, collection: Collection, device: torch.device
) -> dict[str, dict[str, float]]:
    """Recall of the first stage alone, in percent, per direction."""
    recalls: dict[str, dict[str, float]] = {}
    for lists in first_stage_lists(backbone, collection, 50, device=device):
        at = recall_at_k(first_hit_ranks(lists.scores, lists.relevant), (1, 5, 10, 20, 50))
        recalls[lists.direction] = {f"recall@{k}": round(100 * share, 2) for k, share in at.items()}
    return recalls
