"""Recall on val during training, for two or more runs of train.py.

    python experiments/shapes_backbone/curves.py <a run's folder> <a longer run's folder> …

Writes curves.csv and curves.png beside this file.
"""

import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from edje.analysis.style import RC

HERE = Path(__file__).parent


def curve(run: Path) -> pd.DataFrame:
    """Optimiser step and t2i R@1 in percent, as written by the run."""
    points = pd.read_csv(run / "curve.csv")
    return points.assign(run_steps=int(points["step"].max()))


def main(runs: list[Path], folder: Path = HERE) -> None:
    """Write the table and the figure."""
    table = pd.concat([curve(run) for run in runs], ignore_index=True)
    table[["run_steps", "step", "recall@1"]].to_csv(folder / "curves.csv", index=False)
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
        figure.savefig(folder / "curves.png")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
