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
from edje.analysis.runs import folders_of, load_runs
from edje.errors import EdjeError
from edje.records import DIRECTIONS, Direction
from edje.retrieval.intervals import resampled_means

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
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall@k after reranking, compared for every two choices among the finished runs.

    A row per pair. Columns: `direction`; `a` and `b`, the choices, with the number of their runs
    (`a.runs`) and their recall in percent (`a.recall`); `difference`, a − b in points, with its
    95% interval (`difference.low`, `.high`); `p`, two-sided; `p.holm`, corrected by Holm's method
    for all rows of the table; `p.least`, the smallest `p` possible with this number of resamples;
    and `better`: "a", "b", or "" where `p.holm` is above 0.05. The chance that a table calls at
    least one equal pair different is thus at most 5%.

    The bootstrap is paired: both sides are measured on the same images, drawn with replacement.
    Where a side pools several runs, their recall is averaged and the runs are drawn too: one
    fewer than there are, which gives the spread of their mean without bias. For a side of one
    run, the interval doesn't cover other seeds; for a side of few runs, it covers them poorly.

    Args:
        runs: a table of `load_runs`, rows chosen from it, or one or several folders with runs
            at any depth.
        by: columns of `load_runs`, such as "adapter.num_tokens". Runs with equal values there
            (seeds) are pooled into one choice. By default each run is a choice.
        direction: t2i or i2t. By default both, and the correction covers the rows of both.
        k: a hit among the first `k` counts.
        resamples: number of bootstrap resamples; more allow a smaller `p`.
        seed: of the resampling.

    Raises:
        EdjeError: fewer than two choices, no such column, a run evaluated on other images or
            captions, or too few resamples for any difference to pass the correction.
    """
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
    least = 2 / (resamples + 1)
    if least * len(pairs) * len(directions) > ERROR_RATE:
        needed = round(2 * len(pairs) * len(directions) / ERROR_RATE)
        raise EdjeError(
            f"resamples={resamples}: the smallest possible p is {least:.2g}, and corrected for "
            f"{len(pairs) * len(directions)} comparisons it is above {ERROR_RATE}. Pass "
            f"resamples={needed} or more, or compare fewer choices."
        )
    rows = [
        row
        for way in directions
        for row in _compared(groups, pairs, *paired_hits(folders, way, k), resamples, seed, way)
    ]
    table = pd.DataFrame(rows)
    table["p.holm"] = holm(table["p"].to_numpy())
    table["p.least"] = least
    sides = np.where(table["difference"] > 0, "a", "b")
    table["better"] = np.where(table["p.holm"] <= ERROR_RATE, sides, "")
    return table


def two_sided(differences: np.ndarray) -> float:
    """The p-value of "no difference", from the resampled differences.

    Twice the share of resamples on the rarer side of zero; a resample at zero counts on both
    sides. The sample itself counts as a resample on each side, so the p-value is never 0.
    """
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (1 + int(rarer)) / (1 + len(differences)))


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


def drawn_runs(recall: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean over runs of each row of (resamples, runs), with runs drawn anew for each row.

    One fewer is drawn than there are: the mean of n draws from n would have only (n − 1)/n of the
    variance, half of it with two runs.
    """
    count = recall.shape[1]
    if count == 1:
        return recall[:, 0]
    drawn = rng.integers(count, size=(len(recall), count - 1))
    return np.take_along_axis(recall, drawn, axis=1).mean(axis=1)


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
    return pd.concat(parts) if parts else pd.DataFrame(columns=["run"])


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
    resamples: int,
    seed: int,
    direction: Direction,
) -> list[dict[str, Any]]:
    """A row per pair of groups, before the correction."""
    means = resampled_means(hits, images, seed, resamples=resamples).numpy()
    sizes = [len(group.folders) for group in groups]
    rng = np.random.default_rng(seed)
    ends = np.cumsum(sizes)[:-1]
    drawn = [drawn_runs(part, rng) for part in np.split(means, ends, axis=1)]
    recall = [part.mean().item() for part in hits.split(sizes, dim=1)]
    rows = []
    for a, b in pairs:
        differences = drawn[a] - drawn[b]
        low, high = np.quantile(differences, (0.025, 0.975))
        rows.append(
            {"direction": direction}
            | {"a": groups[a].name, "b": groups[b].name}
            | {"a.runs": sizes[a], "b.runs": sizes[b]}
            | {"a.recall": recall[a], "b.recall": recall[b]}
            | {"difference": recall[a] - recall[b]}
            | {"difference.low": float(low), "difference.high": float(high)}
            | {"p": two_sided(differences)}
        )
    return rows
