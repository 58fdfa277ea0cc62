"""Recall of the evaluated split over training, of two or more runs of experiment=shapes_backbone.

    python experiments/shapes_backbone/curves.py <run folder> <a longer run's folder> …

Writes curves.csv and curves.png beside this file.
"""

import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from edje.analysis.runs import load_runs
from edje.analysis.style import RC

HERE = Path(__file__).parent


def curve(run: Path) -> pd.DataFrame:
    """Optimiser step (counted from 1) and t2i R@1 in percent, as the run logged them."""
    parts = [pd.read_csv(path) for path in sorted((run / "logs").rglob("metrics.csv"))]
    table = pd.concat(parts, ignore_index=True)
    name = next(column for column in table if column.endswith("/recall@1"))
    points = table[["step", name]].dropna().rename(columns={name: "recall@1"})
    points["step"] += 1
    every = load_runs(run)["scoring.dev_every"].iloc[0]
    points = points[points["step"] % every == 0]  # between two scores the log repeats the last
    return points.assign(run_steps=int(points["step"].max())).astype({"step": int})


def main(runs: list[Path]) -> None:
    """Write the table and the figure."""
    table = pd.concat([curve(run) for run in runs], ignore_index=True)
    table[["run_steps", "step", "recall@1"]].to_csv(HERE / "curves.csv", index=False)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.5, 3.4), layout="constrained")
        panel = figure.subplots()
        for steps, points in table.groupby("run_steps"):
            last = points["recall@1"].iloc[-1]
            panel.plot(points["step"], points["recall@1"], label=f"{steps:,} steps: {last:.1f}")
        panel.set_xlabel("optimiser step")
        panel.set_ylabel("text-to-image R@1, %")
        panel.set_ylim(bottom=0)
        panel.grid(axis="y")
        panel.legend(loc="lower right")
        figure.savefig(HERE / "curves.png")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
