"""How many candidates are worth reranking: recall at every pool size, from one scoring."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from edje.analysis.lists import image_rows, read_lists
from edje.analysis.recall import DIRECTION_TITLES
from edje.analysis.runs import read_metrics
from edje.analysis.style import AFTER, BEFORE, INK, QUIET, RC
from edje.retrieval.intervals import interval_columns
from edje.retrieval.report import STAGES, stage_columns
from edje.retrieval.rerank import RerankedList

LINES = {
    "ceiling": ("ceiling", INK, (0, (4, 3))),
    "reranked": ("reranked", AFTER, "solid"),
    "first_stage": ("first stage", BEFORE, "solid"),
}


def candidate_curve(
    run_folder: str | Path, *, k: int = 1, seed: int | None = None, resamples: int = 1000
) -> pd.DataFrame:
    """Recall@k with the first 1, 2, … candidates of the first stage reranked, a row for each.

    Columns: `direction`, `candidates` (their number, up to the run's) and, in percent with
    `.low` and `.high`, `first_stage`, `reranked`, `ceiling` (the share of queries with a hit
    among these candidates) and `gain` (reranked − first stage, in points, paired). A pair's score
    doesn't depend on the other candidates. So each row equals an evaluation with that many
    candidates, to the last digit, and the last row equals metrics.json. With score=sum, all rows
    use the run's fusion weight; a separate evaluation might fit another one on dev.

    Args:
        k: a hit among the first `k` counts.
        seed: of the bootstrap over images; by default the run's.
        resamples: number of bootstrap resamples of the images.

    Raises:
        EdjeError: the run has no lists, they are damaged, or `k` or `resamples` is below 1.
    """
    if seed is None:
        seed = int(read_metrics(run_folder)["seed"])
    rows: list[dict[str, Any]] = []
    for direction, stored in read_lists(run_folder).items():
        pool = stored.reranked.final.shape[1]
        columns = torch.cat(
            [stage_columns(_shortened(stored.reranked, n), [k]) for n in range(1, pool + 1)], dim=1
        )
        images = image_rows(stored.queries["image_id"])
        estimates = iter(interval_columns(columns, images, seed, resamples=resamples))
        for candidates in range(1, pool + 1):
            row: dict[str, Any] = {"direction": direction, "candidates": candidates}
            for stage in STAGES:
                value, low, high = asdict(next(estimates)).values()
                row |= {stage: value, f"{stage}.low": low, f"{stage}.high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def candidate_curve_plot(run_folder: str | Path, *, k: int = 1) -> Figure:
    """Recall@k against the number of candidates, with 95% intervals: a panel per direction.

    Raises:
        EdjeError: as `candidate_curve`.
    """
    table, metrics = candidate_curve(run_folder, k=k), read_metrics(run_folder)
    directions = table["direction"].unique()
    low = table[["first_stage.low", "reranked.low", "ceiling.low"]].to_numpy().min()
    floor = min(10.0 * np.floor(low / 10), 90.0)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(4.7 * len(directions) + 0.3, 3.9), layout="constrained")
        panels = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
        for panel, direction in zip(panels, directions, strict=True):
            _lines(panel, table[table["direction"] == direction], floor)
            panel.set_title(DIRECTION_TITLES[direction])
        panels[0].set_ylim(floor, 100)
        panels[0].set_ylabel(f"recall@{k}, %")
        where = " ".join(str(metrics[key]) for key in ("dataset", "split") if key in metrics)
        figure.suptitle(
            f"Recall@{k} by the number of candidates reranked{': ' if where else ''}{where}",
            x=0.012,
            ha="left",
        )
        figure.supxlabel("bands: 95% bootstrap intervals over images", color=QUIET, fontsize=8)
    return figure


def _shortened(lists: RerankedList, candidates: int) -> RerankedList:
    """The lists with only the first stage's best `candidates`."""
    first = replace(
        lists.first,
        candidates=lists.first.candidates[:, :candidates],
        scores=lists.first.scores[:, :candidates],
        relevant=lists.first.relevant[:, :candidates],
    )
    return RerankedList(first, lists.joint[:, :candidates], lists.final[:, :candidates])


def _lines(panel: Axes, rows: pd.DataFrame, floor: float) -> None:
    """The lines of one direction, each labelled at its end; the axis begins at `floor` percent."""
    sizes = rows["candidates"].to_numpy()
    labels = []
    for stage, (name, colour, style) in LINES.items():
        values = rows[stage].to_numpy()
        panel.plot(sizes, values, color=colour, linestyle=style, linewidth=1.6)
        panel.fill_between(
            sizes,
            rows[f"{stage}.low"].to_numpy(),
            rows[f"{stage}.high"].to_numpy(),
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        labels.append((values[-1], name, QUIET if colour == BEFORE else colour))
    points = 200 / (100 - floor)  # points per percent, roughly: keeps labels apart
    above = np.inf
    for value, name, colour in sorted(labels, key=lambda label: -label[0]):
        place = min(value * points, above - 12)
        panel.annotate(
            f"{name} {value:.1f}",
            (sizes[-1], value),
            xytext=(5, place - value * points),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold" if colour == AFTER else "normal",
            annotation_clip=False,
        )
        above = place
    panel.set_xlim(sizes[0], max(sizes[-1], 2))
    panel.set_xlabel("candidates per query")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(axis="y")
