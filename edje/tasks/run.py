"""Run: what is missing of the cache, then training, then evaluation, then the report."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.inference.checkpoint import load_checkpoint
from edje.tasks.console import quiet_libraries
from edje.tasks.evaluate import evaluate_checkpoint
from edje.tasks.train import train_reranker


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=run`, the default; returns reranked t2i R@1 in percent on the evaluated split."""
    quiet_libraries()
    backbone = instantiate(cfg.backbone)
    trained = folder / "checkpoints" / "model.ckpt"
    if trained.is_file():  # a resumed run whose training was already finished
        checkpoint = load_checkpoint(trained)
    else:
        checkpoint = train_reranker(cfg, folder, backbone)
    return evaluate_checkpoint(cfg, folder, checkpoint, backbone)
