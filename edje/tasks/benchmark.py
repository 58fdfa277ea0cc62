"""Benchmark: how fast pairs are scored on this machine, beside the roads of others."""

import json
import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from edje.analysis.speed import save_speed_plot, speed_table
from edje.benchmark.measure import measure
from edje.benchmark.settings import Benchmark
from edje.tasks.console import quiet_libraries

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=benchmark`: benchmark.json, machine.json, a plot; returns the best pairs per second."""
    quiet_libraries()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)  # of its made-up model
    sizes: Benchmark = instantiate(cfg.benchmark)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(cfg.seed)
    rows, machine = measure(sizes, device, folder)
    for name, content in (("benchmark", rows), ("machine", machine)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    Console().print(speed_table(rows, machine))
    save_speed_plot(folder)
    return max(row["pairs_per_second"] for row in rows)
