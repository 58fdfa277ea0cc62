"""Loss curves of one run, from its CSV log."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from edje.analysis.style import AFTER, RC
from edje.errors import EdjeError


def loss_curves(
    run_folder: str | Path, *, prefix: str = "train/", leave_out: str = "teacher_"
) -> Figure:
    """A panel per logged quantity below `prefix`, the loss first: raw values and smoothed ones.

    Read from the CSV logger's metrics.csv below `logs/`. Names that start with `leave_out` after
    the prefix get no panel. The smoothed curve is a centred mean over a 12th of the points.

    Raises:
        EdjeError: there is no such file, or it has nothing with that prefix.
    """
    table = read_log(run_folder)
    terms = [
        name.removeprefix(prefix)
        for name in table.columns
        if name.startswith(prefix) and table[name].notna().any()
    ]
    terms = [term for term in terms if not (leave_out and term.startswith(leave_out))]
    terms.sort(key=lambda term: (term != "loss", term == "accuracy"))
    if not terms:
        raise EdjeError(
            f"Nothing called {prefix}… was logged in {run_folder}/logs. A run of fewer steps than "
            "its trainer.log_every_n_steps logs none."
        )
    columns = 2 if len(terms) in (2, 4) else min(3, len(terms))
    rows = -(-len(terms) // columns)
    with matplotlib.rc_context(RC):
        layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
        figure = Figure(figsize=(3.5 * columns + 0.3, 2.3 * rows + 0.6), layout=layout)
        figure.subplots(rows, columns, sharex=True)
        for panel, term in zip(figure.axes, terms, strict=False):
            points = table[["step", prefix + term]].dropna()
            _curve(panel, points.drop_duplicates("step", keep="last"), term)
        for place, panel in enumerate(figure.axes):
            panel.set_visible(place < len(terms))
            panel.set_xlim(0, 1.16 * table["step"].max())  # room for the label at the end
            if place + columns >= len(terms):  # the lowest panel of its column
                panel.set_xlabel("optimiser step")
                panel.tick_params(labelbottom=True)
        figure.suptitle(
            "Training: every logged value (pale) and its running mean", x=0.012, ha="left"
        )
    return figure


def read_log(run_folder: str | Path) -> pd.DataFrame:
    """The CSV logger's rows, one per logged step, with all parts of a resumed run.

    Raises:
        EdjeError: it wrote nothing.
    """
    logs = Path(run_folder) / "logs"
    paths = sorted(logs.rglob("metrics.csv")) if logs.is_dir() else []
    if not paths:
        raise EdjeError(
            f"No metrics.csv below {logs}: the run had no CSV logger, or fewer steps than its "
            "trainer.log_every_n_steps."
        )
    table = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    if "step" not in table:
        raise EdjeError(f"{paths[0]} has no column step: the CSV logger didn't write it.")
    return table.sort_values("step", kind="stable")


def _curve(panel: Axes, points: pd.DataFrame, title: str) -> None:
    steps, values = (points[name].to_numpy() for name in points.columns)
    window = max(1, len(points) // 12)
    smooth = points.iloc[:, 1].rolling(window, center=True, min_periods=1).mean().to_numpy()
    panel.plot(steps, values, color=AFTER, alpha=0.25, linewidth=0.7)
    panel.plot(steps, smooth, color=AFTER, linewidth=1.6)
    panel.annotate(
        f"{smooth[-1]:.3g}",
        (steps[-1], smooth[-1]),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=AFTER,
        fontweight="bold",
        annotation_clip=False,
    )
    # The few outliers, mostly at the start, must not flatten the rest of the curve.
    low, high = np.percentile(values, (0.5, 99.5))
    low, high = min(low, smooth.min()), max(high, smooth.max())
    margin = 0.06 * (high - low) or 0.5
    panel.set_ylim(low - margin, high + margin)
    panel.set_title(title.replace("_", " "))
    panel.grid(axis="y")
