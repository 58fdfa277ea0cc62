"""A sweep as one table: a row per job, pooled rows over seeds, the best marked."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from edje.analysis.paired_hits import paired_hits
from edje.analysis.pooled import pooled_recall
from edje.analysis.runs import JOB_FILE, RUN_FILES, load_runs
from edje.analysis.study import study_plot
from edje.analysis.table import DIRECTIONS as NAMES
from edje.errors import EdjeError
from edje.records import DIRECTIONS
from edje.renames import present_override

POOLED = "mean"  # the job of a pooled row
ENDS = ("", ".low", ".high")
FIRST = ".first_stage"
DECIMAL = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
# Figures compare only if these are equal.
OF_MEASUREMENT = ("dataset", "split", "num_images", "split_digest")


def sweep_table(folder: str | Path) -> pd.DataFrame:
    """A row per job of a sweep's folder, in their order, then one per choice of several seeds.

    Columns: `job` (its folder below `folder`; "mean" in a pooled row), `status` (done, failed,
    stopped, running or incomplete), the swept keys with their values as text, `seeds` (how many
    the row stands for), `bytes` (stored per image), `t2i`, `t2i.low`, `t2i.high`,
    `t2i.first_stage` and likewise `i2t`: R@1 in percent, after reranking if the job reranks;
    `best`; and `message`, one line that says why a job failed. The swept keys are those whose
    overrides differ between the jobs. A job's interval is the one in its metrics.json; a pooled
    row's is of 95% over images and seeds together (see `edje.analysis.pooled`). `best` marks the
    highest `t2i` of all choices; a choice of several seeds counts by its pooled row. Jobs that
    measured on different images have a best each.

    Raises:
        EdjeError: `folder` does not exist, or is a run folder itself.
    """
    return table_of_jobs(Path(folder), load_runs(folder))


def table_of_jobs(root: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """`sweep_table` of a folder whose runs are already loaded as `load_runs`'s table.

    Raises:
        EdjeError: `root` is a run folder itself.
    """
    if any((root / name).exists() for name in RUN_FILES):
        raise EdjeError(f"{root} is a run folder. Give the folder of a sweep, which holds several.")
    jobs = [_job(root / run["run"], run) for run in runs.to_dict("records")]
    given = [job.pop("overrides") for job in jobs]
    swept = [
        key
        for key in dict.fromkeys(key for overrides in given for key in overrides)
        if len({overrides.get(key) for overrides in given}) > 1
    ]
    swept.sort(key=lambda key: key == "seed")  # the seed last
    rows = [
        {"job": job["job"], "status": job["status"]}
        | {key: overrides.get(key, "") for key in swept}
        | {"seeds": 1, **job}
        for job, overrides in zip(jobs, given, strict=True)
    ]
    figures = [f"{way}{end}" for way in DIRECTIONS for end in (*ENDS, FIRST)]
    columns = ["job", "status", *swept, "seeds", "bytes", *figures, "best", "message"]
    chosen: dict[tuple[str, ...], list[int]] = {}
    for number, row in enumerate(rows):
        if pd.notna(row.get("t2i")):
            choice = tuple(row[key] for key in swept if key != "seed")
            of = chosen.setdefault((*row["measured"], *choice), [])
            if all(rows[other].get("seed") != row.get("seed") for other in of):
                of.append(number)  # a repeated seed is no other seed
    pooled = {c: _pooled(root, [rows[n] for n in of]) for c, of in chosen.items() if len(of) > 1}
    table = pd.DataFrame([*rows, *pooled.values()]).reindex(columns=columns)
    table["best"] = False
    places = dict(zip(pooled, range(len(rows), len(table)), strict=True))
    for measured in {choice[: len(OF_MEASUREMENT)] for choice in chosen}:
        of = [places.get(c, chosen[c][0]) for c in chosen if c[: len(OF_MEASUREMENT)] == measured]
        table.loc[table.loc[of, "t2i"].astype(float).idxmax(), "best"] = True
    return table


def sweep_plot(table: pd.DataFrame, title: str) -> Figure:
    """t2i R@1 of every choice in `sweep_table`'s table with its interval; dashed: the best.

    Raises:
        EdjeError: no job has a recall.
    """
    table, swept = _readable(table), swept_keys(table)
    chosen = table[table["t2i"].notna()]
    if chosen.empty:
        raise EdjeError(f"No job of {title} has a recall to draw.")
    shared = [key for key in swept if key != "seed"]
    pooled = {tuple(row[shared]) for _, row in chosen[chosen["seeds"] > 1].iterrows()}
    whole = [row["seeds"] > 1 or tuple(row[shared]) not in pooled for _, row in chosen.iterrows()]
    drawn = chosen[whole].copy()
    drawn["choice"] = [
        " ".join(f"{key}={row[key]}" for key in shared if row[key] != "") or row["job"]
        for _, row in drawn.iterrows()
    ]
    drawn["axis"] = title
    drawn["t2i.diff"] = np.where(drawn["best"], np.nan, 0.0)
    return study_plot(drawn, title, dashed="best")


def sweep_summary(table: pd.DataFrame) -> Group:
    """The table of a sweep for the console, with a pooled row for each choice of several seeds."""
    table = _readable(table)
    means = " (and seeds)" if (table["job"] == POOLED).any() else ""
    units = "percent · bytes per image" if _has_bytes(table) else "percent"
    feet = [f"{units} · brackets: 95% over images{means}"]
    first = table[[f"{way}{FIRST}" for way in DIRECTIONS]].dropna().drop_duplicates()
    if len(first) == 1:
        feet.append("first stage: " + " · ".join(f"{value:.1f}" for value in first.iloc[0]))
    if (table["seeds"] == 1).all() and len(table) > 1:
        feet.append("one seed each: another seed may differ by more than the brackets")
    return Group(Text(), _Fitting(table), Text(), *(Text(foot, style="dim") for foot in feet))


class _Fitting:
    """The table with each interval beside its figure, or below it where the console is narrow."""

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = _console_table(self.table, " ")
        needed = console.measure(wide, options=options.update(max_width=1000)).maximum
        yield wide if needed <= options.max_width else _console_table(self.table, "\n")


def _console_table(table: pd.DataFrame, between: str) -> Table:
    """`sweep_summary`'s table; `between` a figure and its interval is a space or a line's end."""
    swept = swept_keys(table)
    shown = Table(box=None, pad_edge=False, padding=(0, 1))
    shown.add_column("job", style="dim", no_wrap=True)
    for name in _short(swept):
        shown.add_column(Text(name), overflow="fold", justify="right")
    if _has_bytes(table):
        shown.add_column("bytes", no_wrap=True, justify="right")
    for name in NAMES.values():
        shown.add_column(Text(f"{name}{between}R@1"), no_wrap=True)
    shown.add_column(no_wrap=True)
    pooled_before = False
    for _, row in table.iterrows():
        if row["job"] == POOLED and not pooled_before:
            shown.add_section()
            shown.add_row()
            pooled_before = True
        values = [str(row[key]).replace(",", ", ") for key in swept]  # where a line may break
        if row["job"] == POOLED and "seed" in swept:
            values[swept.index("seed")] = f"{row['seeds']} seeds"
        figures = [_cell(row, way, between) for way in DIRECTIONS]
        if row["status"] != "done":
            figures[0] = Text(row["status"], style="red")
        best = Text("best" if row["best"] else "", style="bold green")
        style = "bold not dim" if row["best"] else ""
        if _has_bytes(table):
            values.append("" if pd.isna(row["bytes"]) else f"{row['bytes']:,.0f}")
        shown.add_row(str(row["job"]), *(Text(v) for v in values), *figures, best, style=style)
    return shown


def _has_bytes(table: pd.DataFrame) -> bool:
    return bool(table["bytes"].nunique() > 1)


def swept_keys(table: pd.DataFrame) -> list[str]:
    """The swept keys among the columns of `sweep_table`'s table."""
    names = [str(name) for name in table.columns]
    return names[names.index("status") + 1 : names.index("seeds")]


def _job(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """A job's row, with its overrides and what it was measured on."""
    state, overrides, message = run["status"], None, run["message"]
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        overrides = yaml.safe_load((folder / "overrides.yaml").read_text(encoding="utf-8"))
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        told = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        state, overrides, message = told["state"], told["overrides"], told.get("message", "")
    row = {"job": run["run"], "status": state, "message": " ".join(message.split())}
    row["overrides"] = _by_key(overrides or [])
    if state != "done":
        return row
    row["bytes"] = run.get("storage_bytes_per_image", np.nan)
    row["measured"] = tuple(str(run.get(key)) for key in OF_MEASUREMENT)
    for way in DIRECTIONS:
        stages = [f"{way}.{stage}.recall@1" for stage in ("reranked", "first_stage")]
        measured = next((name for name in stages if pd.notna(run.get(name))), stages[0])
        row |= {f"{way}{end}": run.get(f"{measured}{end}", np.nan) for end in ENDS}
        row[f"{way}{FIRST}"] = run.get(stages[1], np.nan)
    return row


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Keys and values of a job's overrides by their present names, without Hydra's own."""
    parts = (present_override(text).partition("=") for text in overrides)
    values = {key.lstrip("+~"): value for key, _, value in parts}
    return {key: value for key, value in values.items() if not key.startswith("hydra")}


def _pooled(root: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of jobs that differ only in their seeds."""
    row = rows[0] | {"job": POOLED, "seeds": len(rows), "message": ""}
    if "seed" in row:
        row["seed"] = ""
    for way in DIRECTIONS:
        row |= dict.fromkeys([f"{way}{end}" for end in ENDS], np.nan)
        row[way] = float(np.mean([one[way] for one in rows]))
        with suppress(EdjeError):  # the lists were not kept: the mean alone
            hits = paired_hits([root / one["job"] for one in rows], way, 1)
            row |= pooled_recall(*hits).named(way)
    return row


def _cell(row: pd.Series, way: str, between: str) -> Text:
    value, low, high = (row[f"{way}{end}"] for end in ENDS)
    text = Text("" if pd.isna(value) else f"{value:5.1f}")
    if not pd.isna(low):
        text.append(f"{between}[{low:.1f}, {high:.1f}]", style="dim not bold")
    return text


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with decimal values of swept keys at three significant digits, more if alike."""
    return table.assign(**{key: _rounded(table[key]) for key in swept_keys(table)})


def _rounded(values: pd.Series) -> pd.Series:
    for digits in range(3, 17):
        shown = values.map(partial(_with_digits, digits=digits))
        if shown.nunique() == values.nunique():
            return shown
    return values


def _with_digits(text: str, digits: int) -> str:
    short = f"{float(text):.{digits}g}" if DECIMAL.fullmatch(text) else text
    return min(text, short, key=len)


def _short(keys: Sequence[str]) -> list[str]:
    """Last parts of the keys; whole keys where the last parts are equal."""
    last = [key.rpartition(".")[2] for key in keys]
    return [one if last.count(one) == 1 else key for key, one in zip(keys, last, strict=True)]
