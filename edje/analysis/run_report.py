"""A run's report: one HTML page that needs nothing but itself."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edje.analysis.candidate_curves import LINES, candidate_curve
from edje.analysis.curves import read_log
from edje.analysis.failures import failures
from edje.analysis.gallery import DrawnExamples, Example, drawn_examples, image_paths
from edje.analysis.line_chart import Chart, Series, line_chart
from edje.analysis.runs import read_metrics
from edje.analysis.table import DIRECTIONS, STAGES
from edje.data.images import open_image
from edje.durable import new_file
from edje.errors import EdjeError

NAME = "report.html"
TEMPLATE = "run_report.html.jinja"
SIDE = 144  # pixels of a thumbnail's longer side
MOST_OF_IMAGES = 2_000_000  # bytes of the page; examples beyond are left out, and it says so
KINDS = {"ceiling": "ink dashed", "reranked": "after", "first_stage": "before"}
FACTS = {
    "all": "",
    "words": "words",
    "things": "things named",
    "colours": "colour words",
    "relations": "relations of place",
}
TITLES = {
    "optim/learning_rate": "learning rate",
    "optim/gradient_norm": "gradient norm, before clipping",
    "time/pairs_per_second": "pairs per second",
    "time/data_wait": "waiting for data, share of the time",
}
Found = TypeVar("Found")


def report(run_folder: str | Path, *, examples: int = 8) -> Path:
    """Write a run's report.html into its folder; the path of the page.

    It has the table with its intervals, recall by the number of candidates, the curves of the
    training, what reranking fixed and broke with `examples` of it, and what was measured on what.
    Images are within the page, small; it asks no other host for anything and runs no script.
    What the folder lacks is left out with a word.

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
        autoescape=True,  # captions come from anywhere
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
    """A part of the page, or why there is none."""
    try:
        return make(), ""
    except EdjeError as error:
        return None, str(error)


def candidate_charts(folder: Path) -> list[Chart]:
    """Recall@1 by the number of candidates, a chart per direction."""
    table = candidate_curve(folder)
    charts = []
    for direction in table["direction"].unique():
        rows = table[table["direction"] == direction]
        x = rows["candidates"].to_numpy(dtype=float)
        series = [
            Series(
                LINES[stage][0],
                KINDS[stage],
                x,
                *(rows[f"{stage}{end}"].to_numpy(dtype=float) for end in ("", ".low", ".high")),
            )
            for stage in LINES
        ]
        title = f"{DIRECTIONS[direction]}, R@1 in percent"
        charts.append(line_chart(title, "candidates per query", series, percent=True))
    return charts


def training_charts(folder: Path) -> list[Chart]:
    """The loss and its terms, recall on dev, and what was logged of steps and time.

    Raises:
        EdjeError: the run trained nothing, or logged nothing to a CSV file.
    """
    if not (folder / "checkpoints").is_dir() and not (folder / "logs").is_dir():
        raise EdjeError("This run trained nothing.")
    table = read_log(folder)
    columns = [name for name in table if "/" in name and table[name].notna().any()]
    dev = [name for name in columns if name.startswith("dev/")]
    others = [name for name in columns if name not in dev and "teacher_" not in name]
    others.sort(key=lambda name: (name != "train/loss", not name.startswith("train/"), name))
    charts = [_curve(table, name) for name in others]
    if dev:
        dev.sort(key=lambda name: (len(name), name))
        kinds = ("after", "ink dashed", "before")
        series = [
            Series(f"R@{name.rpartition('@')[2]}", kind, *_points(table, name))
            for name, kind in zip(dev, kinds, strict=False)
        ]
        title = "dev, text → image recall in percent"
        charts.insert(1, line_chart(title, "optimiser step", series, percent=True))
    return charts


def _points(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, counted from 1, and values of what was logged."""
    points = table[["step", name]].dropna().drop_duplicates("step", keep="last")
    return points["step"].to_numpy(dtype=float) + 1, points[name].to_numpy(dtype=float)


def _curve(table: pd.DataFrame, name: str) -> Chart:
    """Every value, pale, and their running mean over a 12th of the points."""
    steps, values = _points(table, name)
    window = max(1, len(values) // 12)
    smooth = pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()
    title = TITLES.get(name, name.removeprefix("train/").replace("_", " "))
    series = [Series("", "raw", steps, values), Series(" ", "after", steps, smooth)]
    return line_chart(title, "optimiser step", series)


@dataclass(frozen=True)
class Thumbnail:
    """An image of a ranked list as the page shows it; without `uri` where its file is gone."""

    uri: str | None
    alt: str
    is_true: bool


@dataclass(frozen=True)
class PicturedExample:
    """A caption with the images that stood first before and after."""

    text: str
    is_fixed: bool
    rows: tuple[tuple[str, str, tuple[Thumbnail, ...]], ...]  # stage, rank of the true image


@dataclass(frozen=True)
class PicturedGallery:
    """Examples with their images, and a word on those that are left out."""

    head: str
    examples: tuple[PicturedExample, ...]
    left_out: str


def pictured(folder: Path, examples: int) -> PicturedGallery:
    """Drawn examples with their images as data URIs.

    Raises:
        EdjeError: the run has no lists, or none of the images is where it was.
    """
    drawn, paths = drawn_examples(folder, examples=examples), image_paths(folder)
    uris: dict[str, str | None] = {}
    shown: list[PicturedExample] = []
    size = 0
    for example in drawn.examples:
        ids = [image_id for row in example.shown for image_id in row]
        for image_id in set(ids) - uris.keys():
            uris[image_id] = data_uri(paths.get(image_id))
        size += sum(len(uris[image_id] or "") for image_id in ids)
        if size > MOST_OF_IMAGES:
            break
        shown.append(_pictured(example, uris))
    if drawn.examples and not any(uris.values()):
        raise EdjeError(f"{drawn.head} The images are no longer where they lay, so none is shown.")
    return PicturedGallery(drawn.head, tuple(shown), _left_out(drawn, len(shown)))


def _left_out(drawn: DrawnExamples, shown: int) -> str:
    rest = len(drawn.examples) - shown
    return f"{rest} more examples are left out, to keep this page small." if rest else ""


def _pictured(example: Example, uris: Mapping[str, str | None]) -> PicturedExample:
    rows = []
    stages = (STAGES["first_stage"], STAGES["reranked"])
    for stage, rank, ids in zip(stages, example.ranks, example.shown, strict=True):
        listed = f"true image: rank {rank:.0f}" if np.isfinite(rank) else "true image: not listed"
        images = tuple(
            Thumbnail(
                uris[image_id],
                f"{stage}, rank {place}: {image_id}"
                + (", the true image" if image_id == example.truth else ""),
                image_id == example.truth,
            )
            for place, image_id in enumerate(ids, 1)
        )
        rows.append((stage, listed, images))
    return PicturedExample(example.text, example.is_fixed, tuple(rows))


def data_uri(path: str | None) -> str | None:
    """An image, made small, as text for a page; None where it can't be read."""
    if path is None:
        return None
    try:
        image = open_image(path)
    except EdjeError:
        return None
    image.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def conditions(folder: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured, on what and with what, as far as the folder says it: name and value."""
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
    """What the newest of name.json, name.1.json, … holds; None where there is none."""
    files = [*folder.glob(f"{stem}{suffix}"), *folder.glob(f"{stem}.*{suffix}")]
    if not files:
        return None
    newest = max(files, key=lambda file: (file.stat().st_mtime_ns, len(file.name)))
    return read(newest.read_text(encoding="utf-8"))
