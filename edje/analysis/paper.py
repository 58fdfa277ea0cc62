"""Runs beside the published figures that their configurations are labelled with."""

from pathlib import Path
from typing import Any

import pandas as pd

from edje.analysis.lists import recompute_metrics
from edje.analysis.runs import folders_of, load_runs
from edje.errors import EdjeError

FIGURES = {  # of a label, and where a run has the same; in percent
    "first_t2i_r1": "t2i.first_stage.recall@1",
    "first_i2t_r1": "i2t.first_stage.recall@1",
    "t2i_r1": "t2i.reranked.recall@1",
    "i2t_r1": "i2t.reranked.recall@1",
    "t2i_r5": "t2i.reranked.recall@5",
    "t2i_r10": "t2i.reranked.recall@10",
    "t2i_r20": "t2i.reranked.recall@20",
}
MEASURED = {  # what has to be as in the label for its figures to be compared with
    "dataset": "dataset",
    "images": "num_images",
    "candidates": "num_candidates.t2i",
}


def paper_table(runs: str | Path) -> pd.DataFrame:
    """Our figures beside the published ones: a row for each figure of a finished, labelled run.

    Columns: `run` (path below the folder), `name` of its experiment, `seed`, `table` of the paper,
    `figure` (`t2i_r1`, …; `first_…` of the first stage alone), `published` in percent (nan where
    none is known), `ours` with its 95% interval `low` and `high`, `difference` (ours − published)
    and `unlike`: what was measured otherwise than the label says, such as another data set or
    number of candidates; where something was, there is no difference. Figures for R@1 are listed
    whether published or not, all others where they are. A cutoff that metrics.json lacks is
    computed from the run's lists.

    Args:
        runs: folder of run folders, at any depth, or a run folder.

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
    unlike = _unlike(run)
    rows = []
    for figure, column in FIGURES.items():
        published = _number(run.get(f"paper.{figure}"))
        if pd.isna(published) and figure not in ("t2i_r1", "i2t_r1"):
            continue
        if column not in run or pd.isna(run[column]):
            run = _with_cutoff(run, folder, column)
        ours, low, high = (_number(run.get(f"{column}{end}")) for end in ("", ".low", ".high"))
        rows.append(
            {
                **{"run": run["run"], "name": run.get("name"), "seed": run.get("seed")},
                **{"table": run["paper.table"], "figure": figure, "published": published},
                **{"ours": ours, "low": low, "high": high},
                **{"difference": float("nan") if unlike else ours - published, "unlike": unlike},
            }
        )
    return rows


def _unlike(run: pd.Series) -> str:
    """What was measured otherwise than the label says, in words; empty where nothing was."""
    found = []
    for key, column in MEASURED.items():
        meant, measured = run.get(f"paper.{key}"), run.get(column)
        if pd.notna(meant) and meant != measured:
            found.append(f"{key} {_plain(measured)}, not {_plain(meant)}")
    return "; ".join(found)


def _with_cutoff(run: pd.Series, folder: Path, column: str) -> pd.Series:
    """The run with the recall of a column, from its lists; as it is where it has none."""
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
    """A whole number as such: a column of them with gaps holds floats."""
    return f"{value:g}" if isinstance(value, float) else str(value)
