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

from edje.analysis.paired_hits import check_one_split, paired_hits
from edje.analysis.pooled import paired_difference, pooled_recall
from edje.analysis.runs import folders_of, load_runs
from edje.analysis.style import AFTER, INK, QUIET, RC
from edje.errors import EdjeError
from edje.records import DIRECTIONS
from edje.renames import present_override

CHECKPOINT = "checkpoint="
NOT_A_CHOICE = ("seed=", CHECKPOINT, "cache_dir=", "resume=", "task=", "hydra")


@dataclass(frozen=True)
class Choice:
    """The finished runs of one choice."""

    axis: str  # name of the sweep's folder
    name: str  # what distinguishes it from the other choices of its sweep
    folders: tuple[Path, ...]
    seeds: tuple[int, ...]


def study_table(sweeps: Sequence[str | Path], reference: str | None = None) -> pd.DataFrame:
    """A row per choice in the given sweep folders, in their order.

    Columns: `axis`, `choice`, `seeds` (their number) and, for t2i and i2t, R@1 in percent after
    reranking (`t2i`), `t2i.low`, `t2i.high`, the R@1 of each seed as text (`t2i.each`), and the
    difference from the reference's runs of the same seeds (`t2i.diff`, …; nan for the reference
    itself and if no seed is shared). All intervals are of 95%, over images and seeds together
    (see `edje.analysis.pooled`; over images alone if there is one seed); those of differences are
    paired by both. An evaluation has the seed of the run that it evaluated.

    Args:
        sweeps: folders of run folders, or run folders.
        reference: name of a choice; by default the choice of the first row.

    Raises:
        EdjeError: no finished run, no such reference, a seed twice in a choice, or runs on
            different images.
    """
    choices = [choice for sweep in sweeps for choice in choices_of(Path(sweep))]
    if not choices:
        raise EdjeError(f"No finished run in {', '.join(map(str, sweeps))}.")
    named = [choice for choice in choices if reference in (None, choice.name)]
    if not named:
        known = ", ".join(choice.name for choice in choices)
        raise EdjeError(f"reference={reference!r}: no such choice among {known}.")
    folders = [folder for choice in choices for folder in choice.folders]
    check_one_split(folders)
    rows: list[dict[str, object]] = [
        {"axis": choice.axis, "choice": choice.name, "seeds": len(choice.seeds)}
        for choice in choices
    ]
    against = choices.index(named[0])
    for way in DIRECTIONS:
        hits, images = paired_hits(folders, way, 1)
        sides = hits.split([len(choice.folders) for choice in choices], dim=1)
        for number, (choice, side, row) in enumerate(zip(choices, sides, rows, strict=True)):
            row |= pooled_recall(side, images).named(way)
            pairs = [
                (own, named[0].seeds.index(seed))
                for own, seed in enumerate(choice.seeds)
                if number != against and seed in named[0].seeds
            ]
            if pairs:
                own, others = map(list, zip(*pairs, strict=True))
                pair = side[:, own], sides[against][:, others]
                row |= paired_difference(*pair, images).named(f"{way}.diff")
            row[f"{way}.each"] = " ".join(f"{one:.2f}" for one in side.mean(dim=0).tolist())
    return pd.DataFrame(rows)


def choices_of(sweep: Path) -> list[Choice]:
    """The choices of one sweep, named by the overrides that its runs don't share.

    An evaluated run folder's own overrides count too.

    Raises:
        EdjeError: a seed occurs twice in a choice.
    """
    runs = load_runs(sweep)
    done = runs[runs["status"] == "done"]
    if done.empty:
        return []
    folders = folders_of(done)
    given = [_overrides(folder) for folder in folders]
    chosen = [[text for text in own if not text.startswith(NOT_A_CHOICE)] for own in given]
    shared = set.intersection(*map(set, chosen))
    grouped: dict[str, dict[int, Path]] = {}
    for folder, texts, seed in zip(folders, chosen, done["seed"].astype(int), strict=True):
        name = " ".join(text for text in texts if text not in shared) or sweep.name
        there = grouped.setdefault(name, {}).setdefault(seed, folder)
        if there != folder:
            raise EdjeError(
                f"{name}: {there} and {folder} are of the same seed, {seed}, and count once. "
                "Move one of them out of the sweep's folder."
            )
    return [
        Choice(sweep.name, name, tuple(of[seed] for seed in sorted(of)), tuple(sorted(of)))
        for name, of in grouped.items()
    ]


def bracketed(row: pd.Series, name: str, sign: str = "") -> str:
    """A figure in percent with its interval, as text; `sign="+"` for differences."""
    if pd.isna(row[name]):
        return ""
    value, low, high = (row[f"{name}{end}"] for end in ("", ".low", ".high"))
    text = f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
    return text.replace("-", "−")


def study_plot(table: pd.DataFrame, title: str, dashed: str = "reference") -> Figure:
    """t2i R@1 of every choice with its interval, a block per axis.

    A dashed line is at the first choice without a difference; `dashed` is its name in the legend.
    """
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
        panel.axvline(line, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), label=dashed)
        labels = [fill_text(choice.replace(",", ", "), 48) for choice in table["choice"]]
        panel.set_yticks(places, labels, color=INK)
        panel.set_ylim(places.min() - 0.6, places.max() + 0.6)  # so that few markers stay whole
        panel.set_xlabel("text to image R@1, %")
        panel.set_title(title)
        panel.grid(axis="x")
        figure.legend(loc="outside lower right", ncols=3)
    return figure


def _overrides(run: Path) -> list[str]:
    """A run's overrides by their present names, after those of the run that it evaluated.

    Raises:
        EdjeError: they can't be read.
    """
    path = run / "overrides.yaml"
    try:
        texts = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EdjeError(f"{path} can't be read ({error}): move {run} out of the study.") from error
    given = [present_override(text) for text in texts]
    evaluated = [text for text in given if text.startswith(CHECKPOINT)]
    trained = Path("".join(evaluated).removeprefix(CHECKPOINT))
    if evaluated and (trained / path.name).is_file():
        return _overrides(trained) + given
    return given
