"""The charts of a run's report: recall by number of candidates, reliability, training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edje.analysis.candidate_curves import LINES, candidate_curve
from edje.analysis.curves import read_log
from edje.analysis.line_chart import Chart, Series, line_chart
from edje.analysis.table import DIRECTIONS
from edje.errors import EdjeError

KINDS = {"ceiling": "ink dashed", "reranked": "after", "first_stage": "before"}
TITLES = {
    "optim/learning_rate": "learning rate",
    "optim/gradient_norm": "gradient norm, before clipping",
    "time/pairs_per_second": "pairs per second",
    "time/data_wait": "share of time spent waiting for data",
}


def candidate_charts(folder: Path) -> list[Chart]:
    """Recall@1 by the number of candidates, a chart per direction."""
    table = candidate_curve(folder)
    charts = []
    for direction in table["direction"].unique():
        rows = table[table["direction"] == direction]
        x = rows["candidates"].to_numpy(dtype=float)
        series = [
            Series(
                LINES[stage][0],
                KINDS[stage],
                x,
                *(rows[f"{stage}{end}"].to_numpy(dtype=float) for end in ("", ".low", ".high")),
            )
            for stage in LINES
        ]
        title = f"{DIRECTIONS[direction]}, R@1 in percent"
        charts.append(line_chart(title, "candidates per query", series, percent=True))
    return charts


def reliability_charts(metrics: Mapping[str, Any]) -> list[Chart]:
    """Share of first hits that are right by their probability, a chart per direction.

    Raises:
        EdjeError: the run has no calibration.
    """
    measured = metrics.get("calibration", {})
    if not measured:
        raise EdjeError(
            "This run has no calibration for its score: train with data.dev_images=50 or more, and "
            "evaluate on at least 50 images."
        )
    charts = []
    for direction, found in measured.items():
        said, right, searches = np.array(found["bins"], dtype=float).T
        ends = wilson_interval(right, searches)
        series = [
            Series("honest", "ink dashed", np.array([0.0, 100.0]), np.array([0.0, 100.0])),
            Series("right", "after", 100 * said, 100 * right, *(100 * end for end in ends)),
        ]
        title = f"{DIRECTIONS[direction]}, first hits that are right, in percent"
        charts.append(line_chart(title, "probability in percent", series, percent=True))
    return charts


def wilson_interval(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of a share of `count` independent trials (Wilson 1927).

    >>> low, high = wilson_interval(np.array([0.0, 0.5]), np.array([10, 100]))
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.0, 0.404], [0.278, 0.596])
    """
    from scipy.stats import binomtest  # slow to import

    ends = [
        binomtest(round(part * trials), int(trials)).proportion_ci(method="wilson")
        for part, trials in zip(share, count, strict=True)
    ]
    low, high = np.array(ends).T
    return low, high


def training_charts(folder: Path) -> list[Chart]:
    """The loss and its terms, recall on dev, and logged quantities of the steps and their time.

    Raises:
        EdjeError: the run trained nothing, or logged nothing to a CSV file.
    """
    try:
        table = read_log(folder)
    except EdjeError as error:
        if (folder / "checkpoints").is_dir():
            raise
        raise EdjeError("This run trained nothing.") from error
    columns = [name for name in table if "/" in name and table[name].notna().any()]
    dev = [name for name in columns if name.startswith("dev/")]
    others = [name for name in columns if name not in dev and "teacher_" not in name]
    others.sort(key=lambda name: (name != "train/loss", not name.startswith("train/"), name))
    charts = [_curve(table, name) for name in others]
    if dev:
        dev.sort(key=lambda name: (len(name), name))
        kinds = ("after", "ink dashed", "before")
        series = [
            Series(f"R@{name.rpartition('@')[2]}", kind, *_points(table, name))
            for name, kind in zip(dev, kinds, strict=False)
        ]
        title = "dev, text → image recall in percent"
        charts.insert(1, line_chart(title, "optimiser step", series, percent=True))
    return charts


def _points(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, counted from 1, and logged values."""
    points = table[["step", name]].dropna().drop_duplicates("step", keep="last")
    return points["step"].to_numpy(dtype=float) + 1, points[name].to_numpy(dtype=float)


def _curve(table: pd.DataFrame, name: str) -> Chart:
    """Every value, pale, and the running mean over a 12th of the points."""
    steps, values = _points(table, name)
    window = max(1, len(values) // 12)
    smooth = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
    title = TITLES.get(name, name.removeprefix("train/").replace("_", " "))
    series = [Series("", "raw", steps, values), Series(" ", "after", steps, smooth)]
    return line_chart(title, "optimiser step", series)
