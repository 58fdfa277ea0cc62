"""The benchmark of a run folder as a table and as plots of throughput and of recall."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from rich.console import Group
from rich.table import Table
from rich.text import Text

from edje.analysis.runs import load_runs
from edje.analysis.style import AFTER, BAD, BEFORE, GOOD, INK, QUIET, RC, TRUE
from edje.errors import EdjeError

COLOURS = (AFTER, GOOD, BAD, TRUE, BEFORE, INK)
DASHES = ("-", "--", ":", "-.")
Rows = Sequence[Mapping[str, Any]]


def speed_table(rows: Rows, machine: Mapping[str, Any]) -> Group:
    """Pairs per second, latency and share of the ceiling, and the conditions of measurement."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("lane", "tier"):
        table.add_column(column, no_wrap=True)
    for column in ("tokens", "k", "pairs/s", "p50 ms", "p99 ms", "GFLOP", "share", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    before: Any = None
    for row in rows:
        setting = (row["k"], row["tokens"])
        if before not in (None, setting):
            table.add_row()
        before = setting
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
            f"{row['bytes_per_query'] / 1e6:.1f}" if row["bytes_per_query"] else "",
            style="bold" if row["lane"].startswith("ours") else "",
        )
    threads = machine["threads"]
    title = f"{machine['device']} · {threads} thread{'s' * (threads != 1)} · {machine['dtype']}"
    clock = " · CPU seconds" if machine["clock"] == "cpu" else ""
    rates = ", ".join(
        f"{rate:.2f} in {dtype}" for dtype, rate in machine["ceilings_tflops_per_second"].items()
    )
    text_tokens = sorted({row["text_tokens"] for row in rows})
    footer = (
        f"one query of {', '.join(map(str, text_tokens))} word pieces, k candidates; medians of "
        f"{min(row['runs'] for row in rows)} or more runs\n"
        f"after {machine['warmup']} warm-up, device synchronised; p99 is the slowest of fewer than "
        "100 runs\n"
        "GFLOP per pair, counted; share: of the fastest rate seen in the same turns,\n"
        "by products in the row's number format or by a row itself; overall\n"
        f"{rates} TFLOP/s\n(a large copy: {machine['copy_gb_per_second']:.1f} GB/s); "
        f"MB of tokens gathered per query{clock}\n"
        "scorer: input on the device · host: tokens gathered from host memory · warm,\n"
        "cold: from a store on disk, in the page cache or not · query: text tower,\n"
        f"exact search over {machine['corpus']:,}, gathering (host), scoring, sorting"
    )
    return Group(Text(title, style="bold"), Text(), table, Text(), Text(footer, style="dim"))


def save_speed_plot(run_folder: str | Path) -> Path:
    """Draw pairs per second against tokens into `plots/throughput.png`; returns its path.

    Raises:
        EdjeError: the folder holds no benchmark.
    """
    rows = read_benchmark(run_folder)
    path = Path(run_folder) / "plots" / "throughput.png"
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context(RC):
        throughput(rows).savefig(path)
    return path


def save_recall_plot(runs: str | Path, run_folder: str | Path) -> Path:
    """Draw `recall_against_latency` into the benchmark's `plots/recall.png`; returns its path.

    Raises:
        EdjeError: the benchmark has no row for any of the runs.
    """
    path = Path(run_folder) / "plots" / "recall.png"
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context(RC):
        recall_against_latency(runs, run_folder).savefig(path)
    return path


def read_benchmark(run_folder: str | Path) -> list[dict[str, Any]]:
    """Rows of a run folder's benchmark.json.

    Raises:
        EdjeError: the folder holds no benchmark.
    """
    path = Path(run_folder) / "benchmark.json"
    if not path.is_file():
        raise EdjeError(
            f"{path.parent}: it has no benchmark.json. Make one with edje task=benchmark."
        )
    return json.loads(path.read_text(encoding="utf-8-sig"))


def throughput(rows: Rows) -> Figure:
    """Scoring alone: a colour per lane, a dash per number of candidates; both axes logarithmic."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    alone = [row for row in rows if row["tier"] == "scorer" and not row["lane"].startswith("blip")]
    lines = list(dict.fromkeys((row["lane"], row["k"]) for row in alone))
    first_k = dict(reversed(lines))  # only a lane's first line gets a label
    lanes, ks = ([*dict.fromkeys(names)] for names in zip(*lines, strict=True))
    for lane, k in lines:
        points = sorted(
            (row["tokens"], row["pairs_per_second"])
            for row in alone
            if (row["lane"], row["k"]) == (lane, k)
        )
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=4,
            color=COLOURS[lanes.index(lane) % len(COLOURS)],
            linestyle=DASHES[ks.index(k) % len(DASHES)],
            label=lane if first_k[lane] == k else None,
        )
    if len(ks) > 1:
        for k, dash in zip(ks, DASHES, strict=False):
            axes.plot([], [], color=QUIET, linestyle=dash, label=f"k = {k:,}")
    tokens = sorted({row["tokens"] for row in alone})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(tokens, [str(count) for count in tokens])
    axes.set_xlabel("visual tokens per image")
    axes.set_ylabel("pairs per second")
    first = rows[0]
    axes.set_title(f"Scoring alone, {first['device']}, {first['dtype']}")
    axes.grid(True, color=QUIET, alpha=0.2)
    figure.legend(loc="outside right upper")
    return figure


def recall_against_latency(runs: str | Path, benchmark: str | Path) -> Figure:
    """Text-to-image R@1 of evaluated runs against the median time of a whole query.

    A run is placed by the benchmark's row of our lane with the same number of tokens, fusion
    layer and k; the benchmark should use the same language model. The dashed line is the first
    stage's R@1 in the first run.

    Raises:
        EdjeError: there is no benchmark, or it has no row for any of the runs.
    """
    times = {
        (row["lane"], row["tokens"], row["k"]): row["p50_ms"]
        for row in read_benchmark(benchmark)
        if row["tier"] == "query"
    }
    table = load_runs(runs)
    placed = [
        (times[key], run)
        for run in table[table["status"] == "done"].to_dict("records")
        if (key := _row_of(run)) in times
    ]
    if not placed:
        raise EdjeError(
            f"{benchmark}: its whole queries have the (lane, tokens, k) {sorted(times)}; no "
            f"evaluated run under {runs} has one of them. Set benchmark.tokens, "
            "benchmark.candidates and benchmark.fusion_layers to the runs' values and measure."
        )
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for time, run in placed:
        value, low, high = (run["t2i.reranked.recall@1" + end] for end in ("", ".low", ".high"))
        errors = [[value - low], [high - value]]
        axes.errorbar(time, value, errors, color=AFTER, marker="o", capsize=3)
        tokens = _row_of(run)[1]
        axes.annotate(f"{tokens} tokens", (time, value), (6, 4), textcoords="offset points")
    first = placed[0][1]["t2i.first_stage.recall@1"]
    axes.axhline(first, color=BEFORE, linestyle="--", label="first stage")
    axes.set_xlim(left=0, right=1.15 * max(time for time, _ in placed))
    axes.set_xlabel("milliseconds per query, median")
    axes.set_ylabel("text → image R@1, percent")
    axes.set_title("Recall against the time of a whole query")
    axes.grid(True, color=QUIET, alpha=0.2)
    axes.legend()
    return figure


def _row_of(run: Mapping[str, Any]) -> tuple[str, int, int]:
    """Lane, tokens and k of the run's row in the benchmark; -1 where the run doesn't say."""
    layer = _whole(run.get("joint.fusion_layer"), 0)
    served = _whole(run.get("scoring.num_tokens"), 0)
    return (
        f"ours, fusion at {layer}" if layer else "ours",
        served or _whole(run.get("adapter.num_tokens"), -1),
        _whole(run.get("num_candidates.t2i"), -1),
    )


def _whole(value: Any, default: int) -> int:
    """A table's number as an integer, or `default` if it is missing or nan."""
    return default if value is None or value != value else int(value)
