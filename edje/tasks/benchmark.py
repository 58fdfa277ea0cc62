"""Benchmark: the speed of scoring or of the token store on this machine, with baselines."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from edje.analysis.speed import save_recall_plot, save_speed_plot, speed_table
from edje.analysis.store_speed import store_table
from edje.benchmark.measure import measure
from edje.benchmark.settings import Benchmark
from edje.benchmark.store_benchmark import OURS, StoreBenchmark, measure_store
from edje.pipeline.devices import make_current
from edje.quiet import quiet_libraries
from edje.tasks.console import show
from edje.tasks.wiring import devices_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig, folder: Path) -> float:
    """`task=benchmark`: benchmark.json and machine.json; returns the best speed (see below)."""
    quiet_libraries()
    sizes: Benchmark | StoreBenchmark = instantiate(cfg.benchmark)
    torch.manual_seed(cfg.seed)
    if isinstance(sizes, StoreBenchmark):
        return benchmark_store(sizes, folder)
    return benchmark_scoring(sizes, folder, devices_of(cfg)[0])


def benchmark_scoring(sizes: Benchmark, folder: Path, device: torch.device) -> float:
    """Scoring, with a plot; returns the best pairs per second."""
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)  # its model is made up
    rows, machine = measure(sizes, make_current(device), folder)
    write_rows(folder, rows, machine)
    show(speed_table(rows, machine))
    save_speed_plot(folder)
    if sizes.runs is not None:
        save_recall_plot(sizes.runs, folder)
    return max(row["pairs_per_second"] for row in rows)


def benchmark_store(sizes: StoreBenchmark, folder: Path) -> float:
    """`benchmark=store`; returns the best read speed of our store, in cells per second."""
    rows, machine = measure_store(sizes, folder / "files")
    write_rows(folder, rows, machine)
    show(store_table(rows, machine))
    read = [row for row in rows if row["lane"] == OURS and row["tier"] != "write"]
    return max(row["cells_per_second"] for row in read)


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> None:
    """Write benchmark.json and machine.json in a run folder."""
    for name, content in (("benchmark", rows), ("machine", machine)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
