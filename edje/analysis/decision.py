"""Which choice of a sweep to take: the cheapest that is not shown to be worse than the best."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from edje.analysis.comparison import compare, finished_runs, grouped_by
from edje.errors import EdjeError
from edje.records import Direction


def decide(
    runs: str | Path | Sequence[str | Path] | pd.DataFrame,
    *,
    by: str,
    cost: str = "storage_bytes_per_image",
    direction: Direction = "t2i",
) -> pd.DataFrame:
    """The choices of a sweep, cheapest first, each compared with the best, and which to take.

    Columns: `choice`; its `cost`; `recall`: recall@1 after reranking in percent, its runs pooled;
    `behind`: by how many points it is behind the best choice, with its 95% interval
    (`behind.low`, `behind.high`; nan for the best itself); `worse`: whether it is shown to be
    worse, by `compare` and corrected for all pairs; `best`: whether it has the highest recall;
    `taken`, true in one row: the cheapest choice that is not shown to be worse than the best; and
    `run`, the folder of its first run. Of equally cheap choices the one with the higher recall
    comes first.

    Args:
        runs: as for `compare`.
        by: the column of `load_runs` that was swept.
        cost: a column of `load_runs` where less is better; averaged over a choice's runs.
        direction: t2i or i2t.

    Raises:
        EdjeError: as `compare`, or a run lacks the cost.
    """
    table = finished_runs(runs)
    pairs = compare(runs, by=by, direction=direction)
    recall = {pair[side]: pair[f"{side}.recall"] for _, pair in pairs.iterrows() for side in "ab"}
    best = max(recall, key=recall.__getitem__)
    groups = grouped_by(table, [by])
    first = {group.name: group.folders[0] for group in groups}
    rows = []
    for group in groups:
        costs = table.loc[list(group.folders), cost] if cost in table else pd.Series([float("nan")])
        if costs.isna().any():
            raise EdjeError(
                f"cost={cost!r}: some runs of {group.name} lack it. Take a column of "
                "load_runs that every run measured, such as storage_bytes_per_image."
            )
        row = {"choice": group.name, "cost": float(costs.mean()), "recall": recall[group.name]}
        rows.append(row | _beside(best, group.name, pairs))
    choices = pd.DataFrame(rows).sort_values(
        ["cost", "recall"], ascending=[True, False], kind="stable", ignore_index=True
    )
    choices["best"] = choices["choice"] == best
    choices["taken"] = choices.index == (~choices["worse"]).idxmax()
    choices["run"] = choices["choice"].map(first)
    return choices


def _beside(best: str, choice: str, pairs: pd.DataFrame) -> dict[str, float | bool]:
    """How far a choice is behind the best one, and whether it is shown to be worse."""
    for _, pair in pairs.iterrows():
        if (pair["a"], pair["b"]) == (best, choice):
            ends = pair["difference.low"], pair["difference.high"]
            return _behind(pair["difference"], *ends, bool(pair["better"]))
        if (pair["b"], pair["a"]) == (best, choice):
            ends = -pair["difference.high"], -pair["difference.low"]
            return _behind(-pair["difference"], *ends, bool(pair["better"]))
    return _behind(0.0, float("nan"), float("nan"), False)


def _behind(value: float, low: float, high: float, worse: bool) -> dict[str, float | bool]:
    return {"behind": value, "behind.low": low, "behind.high": high, "worse": worse}
