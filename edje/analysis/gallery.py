"""A page of example queries: the images ranked first before and after reranking."""

import textwrap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from edje.analysis.lists import StoredLists, image_paths, read_text_lists
from edje.analysis.style import BAD, GOOD, QUIET, RC, RULE, TRUE
from edje.errors import EdjeError
from edje.images.decoder import open_image
from edje.retrieval.metrics import first_hit_ranks

SHOWN = 5
# Inches: the page is laid out by hand so that thumbnails keep one size whatever the captions.
THUMB, GAP, LABEL, CAPTION, BETWEEN = 0.95, 0.07, 0.98, 0.48, 0.36
MARGIN, GUTTER, HEAD = 0.4, 0.5, 1.0
BLOCK_WIDTH = LABEL + SHOWN * THUMB + (SHOWN - 1) * GAP
BLOCK_HEIGHT = CAPTION + 2 * THUMB + GAP + BETWEEN
PIXELS = 192  # a thumbnail is reduced to this side before it is drawn


@dataclass(frozen=True)
class Example:
    """One caption's ranking before and after; ranks are infinite if the image is not listed."""

    text: str
    truth: str
    ranks: tuple[float, float]
    shown: tuple[list[str], list[str]]

    @property
    def is_fixed(self) -> bool:
        """Whether reranking put the true image first, rather than displacing it."""
        return self.ranks[1] == 1


@dataclass(frozen=True)
class DrawnExamples:
    """Examples of captions that reranking fixed, then of those it broke, and their counts."""

    num_asked: int
    num_fixed: int
    num_broken: int
    examples: tuple[Example, ...]

    @property
    def head(self) -> str:
        """The counts as a sentence."""
        return (
            f"Of {self.num_asked:,} captions, reranking newly put the true image first for "
            f"{self.num_fixed:,}, and displaced it from the first place for "
            f"{self.num_broken:,}."
        )


def gallery(
    run_folder: str | Path,
    *,
    examples: int = 8,
    seed: int = 0,
    queries: Collection[str] | None = None,
) -> Figure:
    """Captions whose first answer reranking corrected, and captions where it made it wrong.

    Each has two rows of the five best images, first stage above reranked; the true image is
    framed. Examples are drawn at random by `seed` from all such captions, never selected by hand.
    Three of eight show an answer made wrong; if one kind has too few, the other fills the page.
    The head counts both. With `queries` (ids of `query_outcomes`), only these are counted and
    drawn.

    Raises:
        EdjeError: the run has no lists of text queries, no paths of its images, or lacks a
            requested query.
    """
    drawn = drawn_examples(run_folder, examples=examples, seed=seed, queries=queries)
    return _page(drawn, image_paths(run_folder))


def drawn_examples(
    run_folder: str | Path,
    *,
    examples: int = 8,
    seed: int = 0,
    queries: Collection[str] | None = None,
) -> DrawnExamples:
    """The examples of `gallery`, and the counts they are drawn from.

    Raises:
        EdjeError: the run has no lists of text queries, or lacks a requested query.
    """
    stored = read_text_lists(run_folder)
    ranks = torch.stack(
        [
            first_hit_ranks(scores, stored.reranked.first.relevant)
            for scores in (stored.reranked.first.scores, stored.reranked.final)
        ],
        dim=1,
    ).numpy()
    asked = _asked(stored.queries["query_id"], queries)
    better = np.flatnonzero(asked & (ranks[:, 0] > 1) & (ranks[:, 1] == 1))
    worse = np.flatnonzero(asked & (ranks[:, 0] == 1) & (ranks[:, 1] > 1))
    num_hurt = min(len(worse), max(3 * examples // 8, examples - len(better)))
    num_helped = min(len(better), examples - num_hurt)
    draw = np.random.default_rng(seed)
    drawn = [*draw.permutation(better)[:num_helped], *draw.permutation(worse)[:num_hurt]]
    return DrawnExamples(
        num_asked=int(asked.sum()),
        num_fixed=len(better),
        num_broken=len(worse),
        examples=tuple(_example(stored, ranks, query) for query in drawn),
    )


def _asked(ids: pd.Series, queries: Collection[str] | None) -> np.ndarray:
    """Which of the ids are requested: all, or those in `queries`."""
    if queries is None:
        return np.ones(len(ids), dtype=bool)
    unknown = sorted(set(queries) - set(ids))
    if unknown:
        raise EdjeError(
            f"queries: {len(unknown)} of {len(set(queries))} are not text queries of this run, "
            f"such as {unknown[0]!r}. Take them from the query_id of query_outcomes(run)."
        )
    return ids.isin(set(queries)).to_numpy()


def _example(stored: StoredLists, ranks: np.ndarray, query: int) -> Example:
    first = stored.reranked.first
    candidates, relevant = first.candidates[query], first.relevant[query]
    shown = []
    for scores in (first.scores[query], stored.reranked.final[query]):
        # A stable sort keeps the input's order in ties: relevant images last, so they lose ties.
        order = torch.argsort(relevant.int(), stable=True)
        order = order[scores[order].argsort(descending=True, stable=True)]
        shown.append([stored.candidate_ids[row] for row in candidates[order][:SHOWN].tolist()])
    row = stored.queries.iloc[query]
    before, after = ranks[query].tolist()
    return Example(row["text"], row["image_id"], (before, after), (shown[0], shown[1]))


def _page(drawn: DrawnExamples, paths: dict[str, str]) -> Figure:
    rows = max(1, -(-len(drawn.examples) // 2))
    width = 2 * BLOCK_WIDTH + GUTTER + 2 * MARGIN
    height = HEAD + rows * BLOCK_HEIGHT + 0.1
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height))
        top = 1 - 0.36 / height
        title = "Example captions before and after reranking"
        figure.text(MARGIN / width, top, title, fontsize=14, fontweight="bold", va="center")
        note = (
            f"{drawn.head}\nThe true image is framed. Green bar: now right; red bar: now wrong. "
            "Examples are drawn at random from each kind."
        )
        figure.text(MARGIN / width, top - 0.36 / height, note, color=QUIET, va="center")
        for place, example in enumerate(drawn.examples):
            left = MARGIN + (place % 2) * (BLOCK_WIDTH + GUTTER)
            bottom = height - HEAD - (place // 2 + 1) * BLOCK_HEIGHT + BETWEEN
            _block(figure, example, left, bottom, paths)
        if not drawn.examples:
            text = "Reranking changed no first answer."
            figure.text(0.5, 0.4, text, ha="center", color=QUIET, fontsize=12)
    return figure


def _block(
    figure: Figure,
    example: Example,
    left: float,
    bottom: float,
    paths: dict[str, str],
) -> None:
    """One example with its lower left corner at (left, bottom), in inches."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(example.text, 66, max_lines=2, placeholder=" …")
    tall = 2 * THUMB + GAP + 0.11 + 0.18 * len(lines)
    corner = (left - 0.14) / width, bottom / height
    colour = GOOD if example.is_fixed else BAD
    bar = Rectangle(corner, 0.035 / width, tall / height, color=colour, linewidth=0)
    figure.add_artist(bar)
    figure.text(
        left / width,
        (bottom + 2 * THUMB + GAP + 0.09) / height,
        "\n".join(lines),
        fontsize=10,
        fontweight="bold",
        va="bottom",
        linespacing=1.25,
    )
    rows = zip(("first stage", "reranked"), example.ranks, example.shown, strict=True)
    for row, (label, rank, ids) in enumerate(rows):
        base = bottom + (1 - row) * (THUMB + GAP)
        middle = base + THUMB / 2
        listed = f"true: rank {rank:.0f}" if np.isfinite(rank) else "true: not listed"
        figure.text(left / width, (middle + 0.09) / height, label, va="center", fontweight="bold")
        figure.text(left / width, (middle - 0.09) / height, listed, va="center", color=QUIET)
        for place, image_id in enumerate(ids):
            x = left + LABEL + place * (THUMB + GAP)
            axes = figure.add_axes((x / width, base / height, THUMB / width, THUMB / height))
            _thumbnail(axes, paths.get(image_id), framed=image_id == example.truth)


def _thumbnail(axes: Axes, path: str | None, framed: bool) -> None:
    """An image at its own aspect in a square; a file that can't be read gives a grey square."""
    axes.set_axis_off()
    try:
        if path is None:
            raise EdjeError("no path")
        image = open_image(path)
        image.thumbnail((PIXELS, PIXELS))
        pixels = np.asarray(image)
    except EdjeError:
        pixels = np.full((4, 4, 3), 232, dtype=np.uint8)
        axes.text(1.5, 1.5, "no file", ha="center", va="center", color=QUIET, fontsize=7)
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 8 else "antialiased")
    rows, columns = pixels.shape[:2]
    frame = Rectangle(
        (-0.5, -0.5),
        columns,
        rows,
        fill=False,
        edgecolor=TRUE if framed else RULE,
        linewidth=3.5 if framed else 0.6,
        clip_on=False,
    )
    axes.add_patch(frame)
