"""Recall of one run before and after reranking, from its metrics.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edje.analysis.runs import read_metrics
from edje.analysis.style import AFTER, BAD, BEFORE, GOOD, INK, QUIET, RC
from edje.errors import EdjeError

DIRECTION_TITLES = {"t2i": "Text to image", "i2t": "Image to text"}
ROOM = 9  # a bar of at least this height (in percent) has room for its number


def recall_bars(run_folder: str | Path) -> Figure:
    """Recall@k of the first stage and after reranking, with 95% intervals and the ceiling.

    Below each pair of bars is the gain in points with its paired interval: green if the interval
    is above zero, red if it is below.

    Raises:
        EdjeError: metrics.json is missing or holds no recall.
    """
    metrics = read_metrics(run_folder)
    directions = [direction for direction in DIRECTION_TITLES if direction in metrics]
    if not directions:
        raise EdjeError(f"metrics.json in {run_folder} holds no recall: evaluate this run.")
    width, height = 4.7 * len(directions) + 0.3, 4.2
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height))
        panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        figure.subplots_adjust(
            left=0.6 / width, right=1 - 0.75 / width, bottom=1.0 / height, top=1 - 0.72 / height
        )
        figure.subplots_adjust(wspace=0.2)
        for panel, direction in zip(panels, directions, strict=True):
            _bars(panel, metrics[direction])
            _ceiling(panel, metrics[direction]["ceiling"])
            pool = metrics.get("num_candidates", {}).get(direction)
            among = f", {pool} candidates" if pool else ""
            panel.set_title(f"{DIRECTION_TITLES[direction]}{among}", pad=8)
        panels[0].set_ylabel("queries with a hit among the first k, %")
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="lower left",
            bbox_to_anchor=(0.6 / width, 0.02),
            ncols=2,
            handlelength=1,
            borderaxespad=0,
            borderpad=0.2,
        )
        figure.text(
            1 - 0.75 / width,
            0.035,
            "whiskers, brackets: 95% bootstrap intervals over images",
            ha="right",
            color=QUIET,
            fontsize=8,
        )
        where = " ".join(str(metrics[key]) for key in ("dataset", "split") if key in metrics)
        title = f"Recall before and after reranking{': ' if where else ''}{where}"
        figure.suptitle(title, x=0.6 / width, y=1 - 0.12 / height, ha="left", va="top")
    return figure


def _bars(panel: Axes, recall: Mapping[str, Any]) -> None:
    cutoffs = list(recall["first_stage"])
    places = np.arange(len(cutoffs))
    sides = (("first_stage", "first stage", BEFORE, -0.2), ("reranked", "reranked", AFTER, 0.2))
    for stage, label, colour, shift in sides:
        values = np.array([recall[stage][k]["value"] for k in cutoffs])
        ends = np.array([[recall[stage][k][end] for k in cutoffs] for end in ("low", "high")])
        panel.bar(places + shift, values, 0.38, color=colour, label=label)
        whiskers = np.abs(ends - values)
        panel.errorbar(
            places + shift, values, whiskers, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5
        )
        for place, value, low, high in zip(places + shift, values, *ends, strict=True):
            inside = low > ROOM  # never meets the ceiling's line; another number covers it
            panel.annotate(
                f"{value:.1f}",
                (place, low if inside else high),
                xytext=(0, -3 if inside else 2),
                textcoords="offset points",
                ha="center",
                va="top" if inside else "bottom",
                color="white" if inside and stage == "reranked" else INK,
                fontweight="bold" if stage == "reranked" else "normal",
                bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    for place, cutoff in zip(places, cutoffs, strict=True):
        gain = recall["gain"][cutoff]
        colour = GOOD if gain["low"] > 0 else BAD if gain["high"] < 0 else QUIET
        lines = (f"{gain['value']:+.1f}", f"[{gain['low']:+.1f}, {gain['high']:+.1f}]")
        for line, text in enumerate(lines):
            panel.annotate(
                text,
                (place, 0),
                xytext=(0, -19 - 12 * line),
                textcoords="offset points",
                ha="center",
                va="top",
                color=colour,
                fontsize=8 if line else 9,
                fontweight="normal" if line else "bold",
                annotation_clip=False,
            )
    panel.set_xticks(places, [cutoff.replace("recall@", "R@") for cutoff in cutoffs], color=INK)
    panel.tick_params(axis="x", length=0)
    panel.set_xlim(-0.5, len(cutoffs) - 0.5)
    panel.set_ylim(0, 100)
    panel.set_yticks(range(0, 101, 20))
    panel.grid(axis="y")


def _ceiling(panel: Axes, ceiling: Mapping[str, Any]) -> None:
    """A line at the limit of reranking: the first stage's recall at the pool size."""
    value = next(iter(ceiling.values()))["value"]
    panel.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)), clip_on=False)
    panel.annotate(
        f"ceiling\n{value:.1f}",
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        annotation_clip=False,
    )
