"""Run: what is missing of the cache, then training, then evaluation, then the report."""

from pathlib import Path

from omegaconf import DictConfig

from edje.config.building import backbone_from
from edje.config.resumption import is_finished, steps_trained
from edje.inference.checkpoint import Checkpoint, load_checkpoint
from edje.pipeline.trainer import check_training
from edje.quiet import quiet_libraries
from edje.tasks.evaluate import evaluate_checkpoint
from edje.tasks.train import train_reranker


def run(cfg: DictConfig, folder: Path) -> float | None:
    """`task=run`, the default; returns reranked t2i R@1 in percent on the evaluated split.

    Of several ranks the first alone evaluates; the others end with the training.
    """
    quiet_libraries()
    check_training(cfg)
    backbone = backbone_from(cfg.backbone)
    checkpoint: Checkpoint | None
    done = steps_trained(folder) or 0
    if is_finished(folder) and done >= cfg.trainer.max_steps:  # a resumed run
        checkpoint = load_checkpoint(folder / "checkpoints" / "model.ckpt")
    else:
        checkpoint = train_reranker(cfg, folder, backbone)
    if checkpoint is None:
        return None
    return evaluate_checkpoint(cfg, folder, checkpoint, backbone)
