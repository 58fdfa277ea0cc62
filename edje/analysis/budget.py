"""What a number of tokens costs and finds: recall, bytes and speed of a sweep on one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from edje.analysis.comparison import finished_runs, grouped_by
from edje.analysis.paired_hits import check_one_split, paired_hits
from edje.analysis.pooled import pooled_recall
from edje.analysis.style import AFTER, GOOD, INK, QUIET, RC
from edje.errors import EdjeError
from edje.records import DIRECTIONS

BYTES, SPEED = "storage_bytes_per_image", "scored_pairs_per_second"
SERIES = {"t2i": ("text to image", AFTER, "o"), "i2t": ("image to text", GOOD, "s")}


def budget_table(
    runs: str | Path | Sequence[str | Path] | pd.DataFrame, *, by: str = "adapter.num_tokens"
) -> pd.DataFrame:
    """Recall, bytes and speed by number of tokens: a row each, fewest tokens first.

    Columns: `tokens`; `runs`, their number; `bytes` stored per image; for t2i and i2t, recall@1
    after reranking in percent with its 95% interval over images and runs (`t2i`, `t2i.low`,
    `t2i.high`; see `edje.analysis.pooled`) and the first stage's (`t2i.first_stage`); pairs
    scored per second during evaluation: the median run, the slowest and the fastest (`speed`,
    `speed.low`, `speed.high`), and the device (`device`). The speed of a single run depends on
    what else the machine did; `task=benchmark` measures speed with care.

    Args:
        runs: as for `compare`.
        by: the column of `load_runs` that holds the number of tokens. For one run with nested
            budgets that was evaluated several times: "scoring.num_tokens".

    Raises:
        EdjeError: no finished run, no such column, runs on different images, a run without bytes
            or speed, or runs of one budget that store different numbers of bytes.
    """
    table = finished_runs(runs)
    if table.empty:
        raise EdjeError("There is no finished run among these: nothing to compare.")
    check_one_split(list(table.index))
    rows = []
    for group in grouped_by(table, [by]):
        own = table.loc[list(group.folders)]
        missing = [name for name in (BYTES, SPEED) if name not in own or own[name].isna().any()]
        if missing:
            raise EdjeError(
                f"Some runs of {group.name} lack {', '.join(missing)}: evaluate them "
                "again with edje task=evaluate checkpoint=<run folder>."
            )
        if own[BYTES].nunique() > 1:
            stored = " and ".join(f"{number:,.0f}" for number in own[BYTES].unique())
            raise EdjeError(
                f"Runs of {group.name} store {stored} bytes per image: choose the runs of one "
                "codec and width."
            )
        speed = own[SPEED]
        row: dict[str, Any] = {"tokens": int(own[by].iloc[0]), "runs": len(own)}
        row["bytes"] = int(own[BYTES].iloc[0])
        for way in DIRECTIONS:
            row |= pooled_recall(*paired_hits(group.folders, way, 1)).named(way)
            row[f"{way}.first_stage"] = own[f"{way}.first_stage.recall@1"].mean()
        row |= {"speed": speed.median(), "speed.low": speed.min(), "speed.high": speed.max()}
        row["device"] = " and ".join(dict.fromkeys(own["device"] + ", " + own["dtype"]))
        rows.append(row)
    return pd.DataFrame(rows).sort_values("tokens", ignore_index=True)


def budget_plot(table: pd.DataFrame, *, taken: int | None = None) -> Figure:
    """Recall@1 against bytes per image and against pairs per second, from `budget_table`'s rows.

    Vertical bars are recall's 95% intervals; horizontal bars reach from the slowest run to the
    fastest. The number of tokens is above each budget. A line marks `taken`, one of these numbers.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        aside = 0.006 * table["speed.high"].max()  # so that intervals don't hide each other
        for sign, (way, (label, colour, marker)) in zip((-1, 1), SERIES.items(), strict=True):
            heights = _ends(table, way)
            look = {"color": colour, "marker": marker, "markersize": 5, "elinewidth": 1}
            stored = table["bytes"] * 2 ** (0.02 * sign)
            left.errorbar(stored, table[way], heights, linewidth=1, label=label, **look)
            scored = table["speed"] + sign * aside
            widths = _ends(table, "speed") if way == "t2i" else None  # equal in both
            right.errorbar(scored, table[way], heights, widths, linestyle="none", **look)
        left.set_xscale("log", base=2)
        left.set_xticks(table["bytes"], [f"{count:,}" for count in table["bytes"]])
        left.xaxis.set_minor_locator(NullLocator())
        left.set_xlabel("bytes stored per image")
        left.set_ylabel("recall@1 after reranking, %")
        left.set_title("What it costs to store (above: tokens per image)", pad=30)
        right.set_xlim(left=0)
        right.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        right.set_xlabel(f"pairs scored per second ({', '.join(dict.fromkeys(table['device']))})")
        right.set_title("What it costs to score (above: tokens per image)", pad=30)
        for panel, column in ((left, "bytes"), (right, "speed")):
            _tokens(panel, table.sort_values(column), column, taken)
            panel.grid(axis="y")
        figure.legend(loc="outside lower left", ncols=3)
    return figure


def _ends(table: pd.DataFrame, name: str) -> np.ndarray:
    """The distance from a value to the lower and upper end of its interval: (2, rows)."""
    ends = table[[f"{name}.low", f"{name}.high"]].to_numpy().T
    return np.abs(ends - table[name].to_numpy())


def _tokens(panel: Axes, table: pd.DataFrame, column: str, taken: int | None) -> None:
    """The number of tokens above each budget, on two levels in turn, as speeds may coincide."""
    for place, row in enumerate(table.to_dict("records")):
        chosen = row["tokens"] == taken
        if chosen:
            label = f"{taken} tokens, taken" if column == "bytes" else None  # once for both panels
            look: Any = {"color": QUIET, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 0}
            panel.axvline(row[column], label=label, **look)
        panel.annotate(
            f"{row['tokens']}",
            (row[column], 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4 + 11 * (place % 2)),
            textcoords="offset points",
            ha="center",
            color=INK if chosen else QUIET,
            fontsize=8,
            fontweight="bold" if chosen else "normal",
        )
