"""The summary of a sweep: sweep.csv and a plot in its folder, and one table at its end."""

import logging
import os
from pathlib import Path

import matplotlib
import pandas as pd

from edje.analysis.runs import load_runs
from edje.analysis.style import RC
from edje.analysis.sweep import sweep_plot, sweep_summary, swept_keys, table_of_jobs
from edje.durable import new_file
from edje.tasks.console import show

log = logging.getLogger(__name__)


def update(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write sweep.csv, with the columns of `load_runs`, and sweep.png for the finished jobs.

    Parallel jobs may call this at once: each file is then a whole file of one of them. Returns the
    tables of `load_runs` and `sweep_table`.
    """
    runs = load_runs(folder)
    with new_file(folder / "sweep.csv") as temporary:
        runs.to_csv(temporary, index=False)
    table = table_of_jobs(folder, runs)
    if table["t2i"].notna().any():
        figure = sweep_plot(table, folder.name)
        with new_file(folder / "sweep.png") as temporary, matplotlib.rc_context(RC):
            figure.savefig(temporary, format="png")
    return runs, table


def report(folder: Path) -> None:
    """Update both files and show the table of a finished sweep, if its jobs have figures."""
    runs, table = update(folder)
    if table["t2i"].notna().any():
        show(sweep_summary(table))
        warn_of_split(runs, table)
        log.info("sweep.csv, sweep.png and a folder for each job: %s", os.path.relpath(folder))


def warn_of_split(runs: pd.DataFrame, table: pd.DataFrame) -> None:
    """Warn of a best choice that is chosen on the images whose figures would be reported."""
    splits = set(runs["split"].dropna()) - {"val"}
    keys = [key for key in swept_keys(table) if key != "seed"]
    choices = table.loc[table["t2i"].notna(), keys].to_numpy().tolist()
    if splits and len({*map(tuple, choices)}) > 1:
        split = "/".join(sorted(splits))
        log.warning(
            "best is by R@1 on split=%s, so its figure there is too high to report. Choose with "
            "data.split=val, then evaluate the best run once on %s.",
            split,
            split,
        )
