"""The benchmark of a run folder as a table and as a plot of throughput against tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edje.analysis.style import AFTER, BAD, BEFORE, GOOD, INK, QUIET, RC, TRUE
from edje.errors import EdjeError

COLOURS = (AFTER, GOOD, BAD, TRUE, BEFORE, INK)
Rows = Sequence[Mapping[str, Any]]


def speed_table(rows: Rows, machine: Mapping[str, Any]) -> Group:
    """Pairs per second, latency and share of the ceiling, and what they were measured on."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for column in ("lane", "tier"):
        table.add_column(column, no_wrap=True)
    for column in ("tokens", "k", "pairs/s", "p50 ms", "p99 ms", "GFLOP", "ceiling"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["lane"],
            row["tier"],
            str(row["tokens"]),
            str(row["k"]),
            f"{row['pairs_per_second']:,.1f}",
            f"{row['p50_ms']:,.1f}",
            f"{row['p99_ms']:,.1f}",
            f"{row['flops_per_pair'] / 1e9:.2f}",
            f"{100 * row['share_of_ceiling']:.0f}%",
            style="bold" if row["lane"].startswith("ours") else "",
        )
    threads = machine["threads"]
    title = f"{machine['device']} · {threads} thread{'s' * (threads != 1)} · {machine['dtype']}"
    text_tokens = sorted({row["text_tokens"] for row in rows})
    footer = (
        f"one query of {', '.join(map(str, text_tokens))} word pieces, k candidates; medians of "
        f"{min(row['runs'] for row in rows)} or more runs after "
        f"{machine['warmup']} warm-up runs, device synchronised; GFLOP per pair, counted\n"
        f"ceiling: a large matrix product in the same run, "
        f"{machine['product_tflops_per_second']:.2f} TFLOP/s; a large copy, "
        f"{machine['copy_gb_per_second']:.1f} GB/s\n"
        "scorer: input on the device · host: tokens gathered from host memory · query: text tower, "
        f"exact search over {machine['corpus']:,}, gathering, scoring, sorting"
    )
    return Group(Text(title, style="bold"), Text(), table, Text(), Text(footer, style="dim"))


def save_speed_plot(run_folder: str | Path) -> Path:
    """Draw pairs per second against tokens into `plots/throughput.png`; the path written.

    Raises:
        EdjeError: the folder holds no benchmark.
    """
    folder = Path(run_folder)
    if not (folder / "benchmark.json").is_file():
        raise EdjeError(
            f"{folder}: found no benchmark.json in it. Make one with python run.py task=benchmark."
        )
    rows = json.loads((folder / "benchmark.json").read_text())
    (folder / "plots").mkdir(exist_ok=True)
    path = folder / "plots" / "throughput.png"
    with matplotlib.rc_context(RC):
        throughput(rows).savefig(path)
    return path


def throughput(rows: Rows) -> Figure:
    """A line per lane and number of candidates, of scoring alone; both axes in powers of two."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    alone = [row for row in rows if row["tier"] == "scorer"]
    lines = list(dict.fromkeys((row["lane"], row["k"]) for row in alone))
    several = len({k for _, k in lines}) > 1
    for number, (lane, k) in enumerate(lines):
        points = sorted(
            (row["tokens"], row["pairs_per_second"])
            for row in alone
            if (row["lane"], row["k"]) == (lane, k)
        )
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            color=COLOURS[number % len(COLOURS)],
            label=f"{lane}, k = {k}" if several else lane,
        )
    tokens = sorted({row["tokens"] for row in alone})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(tokens, [str(count) for count in tokens])
    axes.set_xlabel("visual tokens per image")
    axes.set_ylabel("pairs per second")
    first = alone[0]
    axes.set_title(f"Scoring alone, {first['device']}, {first['dtype']}")
    axes.grid(True, color=QUIET, alpha=0.2)
    axes.legend()
    return figure
