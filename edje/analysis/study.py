"""The runs of a study as one table: a row per choice, over its seeds, against a reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill as fill_text

import matplotlib
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from edje.analysis.lists import read_lists
from edje.analysis.runs import folders_of, load_runs
from edje.analysis.style import AFTER, INK, QUIET, RC
from edje.errors import EdjeError
from edje.records import DIRECTIONS, Direction
from edje.renames import present_override
from edje.retrieval.metrics import first_hit_ranks

NOT_A_CHOICE = ("seed", "checkpoint", "cache_dir", "resume")
RESAMPLES = 2000


@dataclass(frozen=True)
class Choice:
    """The finished runs of one choice, and R@1 of each image in them, in percent."""

    axis: str  # name of the sweep's folder
    name: str  # what distinguishes it from the other choices of its sweep
    folders: tuple[Path, ...]
    seeds: tuple[int, ...]
    recall: dict[Direction, np.ndarray]  # (seeds, images)


def study_table(sweeps: Sequence[str | Path], reference: str | None = None) -> pd.DataFrame:
    """A row per choice in the given sweep folders, in their order.

    Columns: `axis`, `choice`, `seeds` (their number) and, for t2i and i2t, R@1 in percent after
    reranking (`t2i`), `t2i.low`, `t2i.high`, the R@1 of each seed as text (`t2i.each`), and the
    difference from the reference's runs of the same seeds (`t2i.diff`, …; nan for the reference
    itself and if no seed is shared). All intervals are 95% bootstraps over images and seeds
    together (images alone if there is one seed); those of differences are paired by both.

    Args:
        sweeps: folders of run folders, or run folders.
        reference: name of a choice; by default the choice of the first row.

    Raises:
        EdjeError: no finished run, no such reference, or runs on different images.
    """
    choices = [choice for sweep in sweeps for choice in choices_of(Path(sweep))]
    if not choices:
        raise EdjeError(f"No finished run in {', '.join(map(str, sweeps))}.")
    sizes = {tuple(len(c.recall[way][0]) for way in DIRECTIONS) for c in choices}
    if len(sizes) > 1:
        raise EdjeError(f"These runs measured different splits: numbers of images {sorted(sizes)}.")
    named = [choice for choice in choices if reference in (None, choice.name)]
    if not named:
        known = ", ".join(choice.name for choice in choices)
        raise EdjeError(f"reference={reference!r}: no such choice among {known}.")
    return pd.DataFrame([_row(choice, named[0]) for choice in choices])


def choices_of(sweep: Path) -> list[Choice]:
    """The choices of one sweep, named by the overrides that its runs don't share."""
    runs = load_runs(sweep)
    done = runs[runs["status"] == "done"]
    if done.empty:
        return []
    folders = folders_of(done)
    given = [_overrides(folder) for folder in folders]
    shared = set.intersection(*map(set, given))
    grouped: dict[str, list[tuple[int, Path]]] = {}
    for folder, own, seed in zip(folders, given, done["seed"], strict=True):
        name = " ".join(text for text in own if text not in shared) or sweep.name
        grouped.setdefault(name, []).append((int(seed), folder))
    return [_choice(sweep.name, name, sorted(runs)) for name, runs in grouped.items()]


def resampled(
    recall: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float, float]:
    """Mean of (seeds, images) and the ends of its 95% bootstrap interval over both."""
    seeds, images = recall.shape
    of_images = rng.multinomial(images, np.full(images, 1 / images), resamples) / images
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    means = ((of_images @ recall.T) * of_seeds).sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(recall.mean()), float(low), float(high)


def bracketed(row: pd.Series, name: str, sign: str = "") -> str:
    """A figure in percent with its interval, as text; `sign="+"` for differences."""
    if pd.isna(row[name]):
        return ""
    value, low, high = (row[f"{name}{end}"] for end in ("", ".low", ".high"))
    text = f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
    return text.replace("-", "−")


def study_plot(table: pd.DataFrame, title: str) -> Figure:
    """t2i R@1 of every choice with its interval, a block per axis; dashed: the reference."""
    blocks = table["axis"].drop_duplicates().to_list()
    places = np.array([-row - 0.8 * blocks.index(axis) for row, axis in enumerate(table["axis"])])
    several = (table["seeds"] > 1).to_numpy()
    compared = table["t2i.diff"].notna() if "t2i.diff" in table else pd.Series([False])
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8, 1.5 + 0.37 * float(np.ptp(places))), layout="constrained")
        panel = figure.subplots()
        for chosen, fill, label in (
            (several, AFTER, "several seeds"),
            (~several, "white", "one seed"),
        ):
            rows = table[chosen]
            if rows.empty:
                continue
            ends = np.abs(rows[["t2i.low", "t2i.high"]].to_numpy().T - rows["t2i"].to_numpy())
            panel.errorbar(
                rows["t2i"],
                places[chosen],
                xerr=ends,
                fmt="o",
                color=AFTER,
                markerfacecolor=fill,
                elinewidth=1,
                label=label,
            )
        line = table.loc[~compared, "t2i"].iloc[0]
        panel.axvline(line, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        labels = [fill_text(choice.replace(",", ", "), 48) for choice in table["choice"]]
        panel.set_yticks(places, labels, color=INK)
        panel.set_ylim(places.min() - 0.6, places.max() + 0.6)  # so that few markers stay whole
        panel.set_xlabel("text to image R@1, %")
        panel.set_title(title)
        panel.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=2)
    return figure


def _row(choice: Choice, reference: Choice) -> dict[str, object]:
    row: dict[str, object] = {
        "axis": choice.axis,
        "choice": choice.name,
        "seeds": len(choice.seeds),
    }
    common = [seed for seed in choice.seeds if seed in reference.seeds]
    for way in DIRECTIONS:
        figures: dict[str, tuple[float, float, float]] = {
            way: resampled(choice.recall[way], np.random.default_rng(0))
        }
        if choice is not reference and common:
            own, other = (
                one.recall[way][[one.seeds.index(seed) for seed in common]]
                for one in (choice, reference)
            )
            figures[f"{way}.diff"] = resampled(own - other, np.random.default_rng(0))
        for name, ends in figures.items():
            row |= dict(zip((name, f"{name}.low", f"{name}.high"), ends, strict=True))
        row[f"{way}.each"] = " ".join(f"{of_seed.mean():.2f}" for of_seed in choice.recall[way])
    return row


def _choice(axis: str, name: str, runs: list[tuple[int, Path]]) -> Choice:
    recall: dict[Direction, np.ndarray] = {
        way: np.stack([recall_of_images(folder, way) for _, folder in runs]) for way in DIRECTIONS
    }
    seeds, folders = zip(*runs, strict=True)
    return Choice(axis, name, folders, seeds, recall)


def recall_of_images(folder: Path, direction: Direction) -> np.ndarray:
    """R@1 of every image's queries in percent, by image id.

    Weighted by the number of queries, so that the mean over images is the mean over queries.
    """
    lists = read_lists(folder)[direction]
    ranks = first_hit_ranks(lists.reranked.final, lists.reranked.first.relevant)
    hits = pd.Series(100.0 * (ranks <= 1).numpy(), index=lists.queries["image_id"])
    sums = hits.groupby(level=0).sum().to_numpy()
    return sums * (len(sums) / len(hits))


def _overrides(run: Path) -> list[str]:
    texts = yaml.safe_load((run / "overrides.yaml").read_text(encoding="utf-8")) or []
    return [
        present_override(text)
        for text in texts
        if not text.startswith((*(f"{k}=" for k in NOT_A_CHOICE), "hydra"))
    ]
