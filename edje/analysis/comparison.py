"""Which of several runs is better: every pair on the same images, corrected for many pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from edje.analysis.paired_hits import check_one_split, paired_hits
from edje.analysis.pooled import pooled_difference
from edje.analysis.runs import folders_of, load_runs
from edje.errors import EdjeError
from edje.ranges import check_count
from edje.records import DIRECTIONS, Direction

ERROR_RATE = 0.05  # of a table: the chance that it calls at least one equal pair different


@dataclass(frozen=True)
class Group:
    """The finished runs of one choice, pooled as one side of a comparison."""

    name: str
    folders: tuple[Path, ...]


def compare(
    runs: str | Path | Sequence[str | Path] | pd.DataFrame,
    *,
    by: str | Sequence[str] | None = None,
    direction: Direction | None = None,
    k: int = 1,
) -> pd.DataFrame:
    """Recall@k after reranking, compared for every two choices among the finished runs.

    A row per pair. Columns: `direction`; `a` and `b`, the choices, with the number of their runs
    (`a.runs`) and their recall in percent (`a.recall`); `difference`, a − b in points, with its
    95% interval (`difference.low`, `.high`); `p`, two-sided; `p.holm`, corrected by Holm's method
    for all rows of the table; and `better`: "a", "b", or "" where `p.holm` is above 0.05. The
    chance that a table calls at least one equal pair different is thus about 5% at most.

    Both sides are measured on the same images. Where a side pools several runs, their recall is
    averaged, and how much they differ counts too, by Student's distribution (see
    `edje.analysis.pooled`): of two runs a side, only large differences can be shown. For a side
    of one run, the interval and `p` don't cover other seeds.

    Args:
        runs: a table of `load_runs`, rows chosen from it, or one or several folders with runs
            at any depth.
        by: columns of `load_runs`, such as "adapter.num_tokens". Runs with equal values there
            (seeds) are pooled into one choice. By default each run is a choice.
        direction: t2i or i2t. By default both, and the correction covers the rows of both.
        k: a hit among the first `k` counts.

    Raises:
        EdjeError: fewer than two choices, no such column, a run evaluated on other images or
            captions, or `k` is below 1.
    """
    check_count("k", k, 1)
    groups = grouped_by(finished_runs(runs), [by] if isinstance(by, str) else by)
    if len(groups) < 2:
        found = groups[0].name if groups else "none"
        raise EdjeError(
            f"A comparison needs at least two choices of finished runs: got {found}. "
            "Give more runs, or other columns in by=."
        )
    folders = [folder for group in groups for folder in group.folders]
    check_one_split(folders)
    directions = DIRECTIONS if direction is None else (direction,)
    pairs = list(combinations(range(len(groups)), 2))
    rows = [
        row
        for way in directions
        for row in _compared(groups, pairs, *paired_hits(folders, way, k), way)
    ]
    return concluded(pd.DataFrame(rows))


def concluded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `p` corrected for its rows (`p.holm`), and which side is `better`."""
    corrected = holm(table["p"].to_numpy())
    sides = np.where(table["difference"] > 0, "a", "b")
    return table.assign(
        **{"p.holm": corrected, "better": np.where(corrected <= ERROR_RATE, sides, "")}
    )


def holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected by Holm's step-down method, which bounds the family-wise error rate.

    The smallest is multiplied by the number of p-values, the next by one less, and so on. No
    corrected value is below that of a smaller p-value.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def finished_runs(runs: str | Path | Sequence[str | Path] | pd.DataFrame) -> pd.DataFrame:
    """Finished runs with their configuration; index: their folders."""
    if isinstance(runs, pd.DataFrame):
        return runs.set_axis(pd.Index(folders_of(runs)))[lambda table: table["status"] == "done"]
    parts = []
    for folder in [runs] if isinstance(runs, str | Path) else runs:
        table = load_runs(folder)
        table.index = pd.Index(folders_of(table))
        table["run"] = [path.as_posix() for path in table.index]
        done = table[table["status"] == "done"]
        if done.empty:
            raise EdjeError(f"No finished run in {folder}: there is nothing to compare.")
        parts.append(done)
    if not parts:
        return pd.DataFrame(columns=["run"])
    table = pd.concat(parts)
    return table[~table.index.duplicated()]  # a run that was named twice is one run


def grouped_by(table: pd.DataFrame, by: Sequence[str] | None) -> list[Group]:
    """The choices, in the order in which they first appear."""
    names = table["run"]
    if by is not None:
        missing = [column for column in by if column not in table]
        if missing or not by:
            stems = tuple(f"{column}." for column in missing)
            below = [name for name in map(str, table) if name.startswith(stems)]
            raise EdjeError(
                f"by={list(by)}: the runs have no column {', '.join(missing) or 'of none'}. Take "
                f"columns of load_runs, such as {', '.join(below) or 'adapter.num_tokens'}."
            )
        texts = [column + "=" + table[column].map(_plain) for column in by]
        names = texts[0].str.cat(texts[1:], sep=" ")
    members: dict[str, list[Path]] = {}
    for folder, name in zip(table.index, names, strict=True):
        members.setdefault(name, []).append(folder)
    return [Group(name, tuple(folders)) for name, folders in members.items()]


def _plain(value: Any) -> str:
    """A value of the table as text. A column that only some runs have turns integers to floats."""
    if not isinstance(value, str) and pd.isna(value):
        return "null"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _compared(
    groups: Sequence[Group],
    pairs: Sequence[tuple[int, int]],
    hits: Tensor,
    images: Tensor,
    direction: Direction,
) -> list[dict[str, Any]]:
    """A row per pair of groups, before the correction."""
    sides = hits.split([len(group.folders) for group in groups], dim=1)
    rows = []
    for a, b in pairs:
        found = pooled_difference(sides[a], sides[b], images)
        rows.append(
            {"direction": direction}
            | {"a": groups[a].name, "b": groups[b].name}
            | {"a.runs": len(groups[a].folders), "b.runs": len(groups[b].folders)}
            | {"a.recall": sides[a].mean().item(), "b.recall": sides[b].mean().item()}
            | found.named("difference")
            | {"p": found.p}
        )
    return rows
