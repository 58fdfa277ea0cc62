"""Evaluate: rerank the first stage's candidates; recall with intervals in the run folder."""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.analysis.plots import save_plots
from edje.analysis.run_report import NAME, report
from edje.analysis.table import metrics_table
from edje.backbones.protocol import Backbone
from edje.errors import EdjeError
from edje.pipeline.evaluation import Evaluated, evaluated
from edje.pipeline.results import write_results
from edje.pipeline.trained import load_trained
from edje.quiet import quiet_libraries
from edje.tasks.building import backbone_from
from edje.tasks.console import show
from edje.tasks.wiring import cache_of, evaluation_choices, published_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=evaluate`: score a trained reranker on `data.split`; returns t2i R@1 in percent.

    Raises:
        EdjeError: as `load_trained` and `evaluated`.
    """
    quiet_libraries()
    if cfg.checkpoint is None:
        raise EdjeError(
            "task=evaluate needs checkpoint=<run folder, .ckpt, or file or hub name of a published "
            "checkpoint>. See the run folders under runs/."
        )
    backbone: Backbone = backbone_from(cfg.backbone)
    checkpoint = load_trained(cfg.checkpoint, "checkpoint", lambda: backbone, published_of(cfg))
    source = instantiate(cfg.data)
    result = evaluated(checkpoint, source, backbone, cache_of(cfg), **evaluation_choices(cfg))
    return conclude(folder, result, cfg.scoring.examples)


def conclude(folder: Path, result: Evaluated, examples: int) -> float:
    """Write, plot and show a run folder's results; returns t2i R@1 in percent."""
    write_results(folder, result.metrics, result.reranked, result.collection)
    save_plots(folder, examples=examples)
    save_report(folder, examples)
    show(metrics_table(result.metrics))
    return result.metrics["t2i"]["reranked"]["recall@1"]["value"]


def save_report(folder: Path, examples: int) -> None:
    """Write report.html; if it fails, this only warns, because the run's results are written."""
    (folder / NAME).unlink(missing_ok=True)  # from earlier results
    try:
        report(folder, examples=examples)
    except Exception as error:
        said = " ".join(str(error).split())
        log.warning("No %s: %s: %s", NAME, type(error).__name__, said)
