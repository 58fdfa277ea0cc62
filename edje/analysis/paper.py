"""Runs beside the published figures in their configurations' labels."""

from pathlib import Path
from typing import Any

import pandas as pd

from edje.analysis.lists import recompute_metrics
from edje.analysis.runs import folders_of, load_runs
from edje.errors import EdjeError

FIGURES = {  # key in a label → our column of the same figure; in percent
    "first_t2i_r1": "t2i.first_stage.recall@1",
    "first_i2t_r1": "i2t.first_stage.recall@1",
    "t2i_r1": "t2i.reranked.recall@1",
    "i2t_r1": "i2t.reranked.recall@1",
    "t2i_r5": "t2i.reranked.recall@5",
    "t2i_r10": "t2i.reranked.recall@10",
    "t2i_r20": "t2i.reranked.recall@20",
}
MEASURED = {  # what must match the label before its figures of a direction can be compared
    "dataset": "dataset",
    "split": "split",
    "images": "num_images",
    "candidates": "num_candidates.{direction}",
}
SPLIT = "test"  # of all published figures; labels don't name it


def paper_table(runs: str | Path) -> pd.DataFrame:
    """Our figures beside the published ones: a row for each figure of a finished, labelled run.

    Columns: `run` (path below the folder), `name` of its experiment, `seed`, `score` by which it
    ranks (the published ones rank by joint), `table` of the paper, `figure` (`t2i_r1`, …; `first_…`
    of the first stage alone), `published` in percent (nan if none is known), `ours` with its 95%
    interval `low` and `high`, `difference` (ours − published) and `unlike`: how the measurement
    differs from the label, such as another data set, split or number of candidates, or shuffled
    tokens. If it differs, `difference` is nan. Figures for R@1 are always listed, all others only
    where they are published. A cutoff that metrics.json lacks is computed from the run's lists.

    Args:
        runs: a run folder, or a folder of run folders at any depth.

    Raises:
        EdjeError: no finished run below it has a label.
    """
    root = Path(runs)
    table = load_runs(root)
    labelled = table[table["status"] == "done"] if len(table) else table
    if "paper.table" in labelled:
        labelled = labelled[labelled["paper.table"].notna()]
    else:
        labelled = labelled.iloc[:0]
    if labelled.empty:
        raise EdjeError(
            f"No finished run in {root} is labelled with a row of the paper. Run "
            "experiment=paper/<row>, or task=evaluate with paper=<row>."
        )
    rows = [
        row
        for folder, (_, run) in zip(folders_of(labelled), labelled.iterrows(), strict=True)
        for row in _figures(folder, run)
    ]
    return pd.DataFrame(rows)


def _figures(folder: Path, run: pd.Series) -> list[dict[str, Any]]:
    """The rows of one run."""
    rows = []
    for figure, column in FIGURES.items():
        published = _number(run.get(f"paper.{figure}"))
        if pd.isna(published) and figure not in ("t2i_r1", "i2t_r1"):
            continue
        if column not in run or pd.isna(run[column]):
            run = _with_cutoff(run, folder, column)
        unlike = _unlike(run, column.partition(".")[0])
        ours, low, high = (_number(run.get(f"{column}{end}")) for end in ("", ".low", ".high"))
        rows.append(
            {
                **{"run": run["run"], "name": run.get("name"), "seed": run.get("seed")},
                **{"score": run.get("score")},
                **{"table": run["paper.table"], "figure": figure, "published": published},
                **{"ours": ours, "low": low, "high": high},
                **{"difference": float("nan") if unlike else ours - published, "unlike": unlike},
            }
        )
    return rows


def _unlike(run: pd.Series, direction: str) -> str:
    """How a direction's measurement differs from the label, in words; empty if it doesn't."""
    found = []
    for key, column in MEASURED.items():
        meant = SPLIT if key == "split" else run.get(f"paper.{key}")
        measured = run.get(column.format(direction=direction))
        if pd.notna(meant) and meant != measured:
            found.append(f"{key} {_plain(measured)}, not {_plain(meant)}")
    if run.get("shuffled_tokens") == 1:  # nan in runs before it was kept
        found.append("shuffled tokens")
    return "; ".join(found)


def _with_cutoff(run: pd.Series, folder: Path, column: str) -> pd.Series:
    """The run with a column's recall computed from its lists; unchanged if it has none."""
    if not (folder / "candidates.parquet").is_file():
        return run
    direction, stage, recall = column.split(".")
    metrics = recompute_metrics(folder, ks=[int(recall.removeprefix("recall@"))])
    found = metrics[direction][stage][recall]
    ends = {"": "value", ".low": "low", ".high": "high"}
    values = {f"{column}{end}": found[key] for end, key in ends.items()}
    return pd.concat([run.drop(values.keys(), errors="ignore"), pd.Series(values)])


def _number(value: Any) -> float:
    return float("nan") if value is None or pd.isna(value) else float(value)


def _plain(value: Any) -> str:
    """A whole number without decimals: a column of them with gaps holds floats."""
    return f"{value:g}" if isinstance(value, float) else str(value)
