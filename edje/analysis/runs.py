"""All runs below a folder as one table, a row per run."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from edje.errors import EdjeError
from edje.renames import LATER_KEYS, present_configuration

ERROR_FILE = "error.txt"
JOB_FILE = "job.json"  # of every job of a sweep, also of those refused before they began
RUN_FILES = frozenset(
    {"config.yaml", "overrides.yaml", "environment.json", "metrics.json", ERROR_FILE, JOB_FILE}
)
RESULTS = {  # what a task that leaves no metrics.json writes last
    "train": "checkpoints/model.ckpt",
    "cache": "first_stage.json",
    "compress": "compress.json",
    "verify": "verify.json",
    "benchmark": "machine.json",
    "plan": "plan.json",
    "index": "index.json",
}


def load_runs(folder: str | Path) -> pd.DataFrame:
    """A table of every run folder at any depth below `folder` (or of `folder` itself).

    Columns: `run` (path below `folder`), `status`, `message`, the resolved config flattened to
    dotted names (`adapter.num_tokens`), and metrics.json likewise: `t2i.reranked.recall@1` in
    percent, its interval in `t2i.reranked.recall@1.low` and `….high`. If both have a column of the
    same name (`seed`, `score`), it holds what was measured. Lists become JSON text, so that you
    can group by every column. Runs of earlier versions get the present names.

    `status` is done (metrics.json exists), finished (a task without metrics has written its
    result), failed (`message` is what `error.txt` says) or incomplete (still running, killed, or
    with a file that can't be read: see `message`).

    Raises:
        EdjeError: `folder` does not exist.
    """
    root = Path(folder)
    if not root.is_dir():
        raise EdjeError(f"No folder of runs at {root}. Give the folder that holds run folders.")
    rows = [_row(run, root) for run in _run_folders(root)]
    table = pd.DataFrame(rows, columns=None if rows else ["run", "status", "message"])
    table.attrs["folder"] = str(root)  # `folders_of` finds the runs of its rows by it
    return table


def folders_of(runs: pd.DataFrame) -> list[Path]:
    """The run folder of every row of `load_runs`'s table, or of rows chosen from it.

    Raises:
        EdjeError: the table doesn't know its runs' folders (for example, it was read from a file).
    """
    if "run" not in runs or "folder" not in runs.attrs:
        raise EdjeError(
            "This table doesn't say where its runs are. Pass load_runs's own table or rows chosen "
            "from it (runs[runs['seed'] == 0]), or the run folders themselves."
        )
    root = Path(runs.attrs["folder"])
    alone = any((root / name).is_file() for name in RUN_FILES)
    return [root if alone else root / run for run in runs["run"]]


def latest_run(runs: pd.DataFrame, *, trained: bool = False) -> Path:
    """The folder of the most recently evaluated finished run in `load_runs`'s table.

    Args:
        runs: the table, or rows chosen from it.
        trained: only runs that trained, with a checkpoint in their folder.

    Raises:
        EdjeError: there is none.
    """
    done = folders_of(runs[runs["status"] == "done"])
    folders = [run for run in done if not trained or (run / "checkpoints").is_dir()]
    if not folders:
        raise EdjeError(
            f"No finished run{' with a checkpoint' if trained else ''} below "
            f"{runs.attrs.get('folder')}: `edje` without arguments, the demo, makes one."
        )
    return max(folders, key=lambda run: (run / "metrics.json").stat().st_mtime)


def read_metrics(run_folder: str | Path) -> dict[str, Any]:
    """The run's metrics.json.

    Raises:
        EdjeError: there is none, or it can't be read.
    """
    path = Path(run_folder) / "metrics.json"
    if not path.is_file():
        first = next(_run_folders(path.parent), path.parent)
        if first != path.parent:
            raise EdjeError(f"{path.parent} holds several runs. Give one of them, such as {first}.")
        raise EdjeError(f"No metrics.json in {path.parent}: evaluate this run first.")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise EdjeError(f"{path} is not JSON ({error}): evaluate this run again.") from error
    if not isinstance(metrics, dict):
        raise EdjeError(f"{path} holds no JSON object: evaluate this run again.")
    return metrics


def _run_folders(root: Path) -> Iterator[Path]:
    """Run folders sorted by path, numbers by value; does not search inside run folders."""
    for parent, folders, files in os.walk(root):
        if RUN_FILES.intersection(files):
            folders.clear()
            yield Path(parent)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)


def _natural(name: str) -> list[str | int]:
    """A key that sorts job 2 of a sweep before job 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _row(run: Path, root: Path) -> dict[str, Any]:
    """One row of the table: what can be read of the run; its message says what can't."""
    config: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    status, message = "incomplete", ""
    finished = (run / "metrics.json").is_file()
    try:
        if not finished and (run / ERROR_FILE).is_file():
            status = "failed"
            message = (run / ERROR_FILE).read_text(encoding="utf-8").strip()
        config = _read_config(run)
        if finished:
            metrics = read_metrics(run)
            status = "done"
        elif status != "failed" and (result := RESULTS.get(str(config.get("task")))) is not None:
            status = "finished" if (run / result).is_file() else status
    except (EdjeError, OSError, UnicodeDecodeError) as error:
        message = message or str(error)
    name = run.relative_to(root).as_posix()
    head = {"run": run.name if name == "." else name, "status": status, "message": message}
    return {**head, **_flatten(config), **_flatten(metrics)}


def _read_config(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EdjeError(f"{path} is missing, so the run's configuration is unknown.") from error
    except yaml.YAMLError as error:
        raise EdjeError(f"{path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise EdjeError(f"{path} holds no mapping.")
    return {**LATER_KEYS, **present_configuration(config)}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted names; an estimate is one leaf with `.low` and `.high` beside it."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and {"value", "low", "high"} == set(value):
            flat[name] = value["value"]
            flat[f"{name}.low"], flat[f"{name}.high"] = value["low"], value["high"]
        elif isinstance(value, Mapping):
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat
