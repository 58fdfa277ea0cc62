"""A run's report: one self-contained HTML page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edje.analysis.embedded_gallery import pictured
from edje.analysis.failures import failures
from edje.analysis.report_charts import candidate_charts, reliability_charts, training_charts
from edje.analysis.runs import read_metrics
from edje.analysis.table import DIRECTIONS, STAGES
from edje.durable import new_file
from edje.errors import EdjeError

NAME = "report.html"
TEMPLATE = "run_report.html.jinja"
FACTS = {
    "all": "",
    "words": "words",
    "things": "things named",
    "colours": "colour words",
    "relations": "spatial relations",
}
Found = TypeVar("Found")


def report(run_folder: str | Path, *, examples: int = 8) -> Path:
    """Write a run's report.html into its folder; returns its path.

    It shows the table of recall with its intervals, recall by the number of candidates, how
    honest the probabilities of first hits are, the training curves, what reranking fixed and
    broke with `examples` of it, and what was measured on what. Small images are embedded in the
    page; it loads nothing from other hosts and runs no script. Where the folder lacks the data
    of a part, the page says why.

    Raises:
        EdjeError: the run was not evaluated.
    """
    folder = Path(run_folder)
    metrics = read_metrics(folder)
    shown = {key: name for key, name in DIRECTIONS.items() if "reranked" in metrics.get(key, {})}
    if not shown:
        raise EdjeError(f"metrics.json in {folder} holds no reranked recall: evaluate this run.")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # captions are untrusted
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template(TEMPLATE).render(
        title=" ".join(str(metrics[key]) for key in ("dataset", "split") if key in metrics),
        run="/".join(folder.resolve().parts[-2:]),
        metrics=metrics,
        directions=shown,
        stages=STAGES,
        candidates=_or_why(lambda: candidate_charts(folder)),
        reliability=_or_why(lambda: reliability_charts(metrics)),
        training=_or_why(lambda: training_charts(folder)),
        outcomes=_or_why(lambda: failures(folder)),
        facts=FACTS,
        gallery=_or_why(lambda: pictured(folder, examples)),
        conditions=conditions(folder, metrics),
    )
    with new_file(folder / NAME) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / NAME


def _or_why(make: Callable[[], Found]) -> tuple[Found | None, str]:
    """A part of the page, or the reason why it is missing."""
    try:
        return make(), ""
    except EdjeError as error:
        return None, str(error)


def conditions(folder: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what was measured, on what and with what, as far as the folder says."""
    found = _last_of(folder, "environment", ".json", json.loads) or {}
    given = _last_of(folder, "overrides", ".yaml", yaml.safe_load) or []
    pools = metrics.get("num_candidates", {})
    counts = ((f"num_{noun}", noun) for noun in ("images", "captions"))
    speed = metrics.get("scored_pairs_per_second")
    commit = str(found.get("git_sha") or "")[:12]
    if commit and found.get("git_changed_files"):
        commit += f", {found['git_changed_files']} files changed"
    where = (metrics.get("dataset"), metrics.get("split"))
    rows = {
        "data": " ".join(str(part) for part in where if part),
        "size": ", ".join(f"{metrics[key]:,} {noun}" for key, noun in counts if key in metrics),
        "candidates": " and ".join(dict.fromkeys(f"{size:,}" for size in pools.values())),
        "score": metrics.get("score"),
        "trained on": metrics.get("label"),
        "seed": metrics.get("seed"),
        "stored": _with_unit(metrics.get("storage_bytes_per_image"), "bytes per image"),
        "speed": _with_unit(speed, "pairs per second"),
        "device": metrics.get("device"),
        "number format": metrics.get("dtype"),
        "command": " ".join(map(str, given)),
        "versions": ", ".join(f"{k} {v}" for k, v in found.get("versions", {}).items()),
        "commit": commit,
        "platform": found.get("platform"),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:,.0f} {unit}"


def _last_of(folder: Path, stem: str, suffix: str, read: Callable[[str], Any]) -> Any:
    """The content of the newest of name.json, name.1.json, …; None if there is none."""
    files = [*folder.glob(f"{stem}{suffix}"), *folder.glob(f"{stem}.*{suffix}")]
    if not files:
        return None
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, len(file.name)))
    return read(newest.read_text(encoding="utf-8"))
