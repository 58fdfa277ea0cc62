"""Attention maps drawn over their pictures."""

from collections.abc import Sequence
from math import isqrt
from textwrap import fill as wrapped

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from edje.analysis.style import BAD, INK, QUIET, RC
from edje.errors import EdjeError

# Inches. The page is laid out by hand, so that pictures keep one size however many there are.
THUMB, GAP, BETWEEN, LABEL = 1.0, 0.06, 0.16, 1.2
MARGIN, HEAD, SCALE = 0.3, 0.82, 0.75
LEAST = 6.4  # wide enough for the scale and its note
ACROSS = 8  # maps per line; further maps of a picture go on the next line
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # of the grey image below the maps
FADED = 0.45  # opacity of the picture below its maps
HEAT = LinearSegmentedColormap.from_list("heat", [to_rgba(BAD, 0), to_rgba(BAD, 0.75)])


def attention_sheet(
    pixels: Float[Tensor, "pictures 3 height width"],
    maps: Float[Tensor, "pictures maps places"],
    *,
    labels: Sequence[str] | None = None,
    title: str = "What the visual tokens read",
) -> Figure:
    """A row per picture: the picture, then each token's map over it; all maps share one scale.

    A map's places are the vision tokens: a square grid, row by row, over the tower's input.
    That input is `pixels`, as `backbone.preprocess` makes them, cropped and standardised. For
    display, each channel is scaled from its smallest to its largest value over all pictures.
    A row holds eight maps; further maps of a picture go below them.

    Raises:
        EdjeError: the numbers of pictures, maps and labels differ, or the places are no square.
    """
    labels = [""] * len(maps) if labels is None else list(labels)
    side = _checked_side(pixels, maps, labels)
    pictures = _as_shown(pixels)
    shown, places = maps.shape[1:]
    tall = -(-shown // ACROSS) * (THUMB + GAP) - GAP  # of one picture's maps
    beside = MARGIN + LABEL + THUMB + GAP + BETWEEN  # where the maps begin
    width = max(beside + min(shown, ACROSS) * (THUMB + GAP), LEAST) + MARGIN
    height = HEAD + len(maps) * (tall + BETWEEN) + SCALE
    colours = Normalize(0, 100 * float(maps.max()))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height))
        figure.text(MARGIN / width, 1 - 0.3 / height, title, fontsize=14, fontweight="bold")
        for row, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            top = HEAD + row * (tall + BETWEEN)
            middle = 1 - (top + THUMB / 2) / height
            name = wrapped(label, 16, max_lines=4)
            figure.text(MARGIN / width, middle, name, va="center", fontsize=8)
            panel = _panel(figure, MARGIN + LABEL, top)
            panel.imshow(picture)
            if row == 0:
                _head(panel, "picture")
            for token, weights in enumerate(maps[row].reshape(shown, side, side)):
                line, column = divmod(token, ACROSS)
                panel = _panel(figure, beside + column * (THUMB + GAP), top + line * (THUMB + GAP))
                _overlay(panel, picture, 100 * weights.cpu().numpy(), colours)
                if row == line == 0:
                    _head(panel, f"token {token + 1}")
                elif shown > ACROSS:
                    panel.text(0.04, 0.94, f"{token + 1}", transform=panel.transAxes, va="top")
        _scale(figure, colours, places)
    return figure


def _as_shown(pixels: Tensor) -> np.ndarray:
    """Pictures with colours from 0 to 1: (pictures, height, width, 3)."""
    low, high = pixels.amin(dim=(0, 2, 3)), pixels.amax(dim=(0, 2, 3))
    spread = (high - low).clamp(min=1e-12)
    return ((pixels.movedim(1, 3) - low) / spread).cpu().numpy()


def _checked_side(pixels: Tensor, maps: Tensor, labels: Sequence[str]) -> int:
    """The side of the square that a map's places form; checks that each picture has a map."""
    count, places = len(maps), maps.shape[2]
    if not count or not len(pixels) == len(labels) == count:
        raise EdjeError(
            f"attention_sheet: got {len(pixels)} pictures, maps of {count} and {len(labels)} "
            "labels, expected one of each per picture."
        )
    side = isqrt(places)
    if side**2 != places:
        raise EdjeError(
            f"attention_sheet: maps over {places} vision tokens form no square grid. Leave out "
            "tokens that are no place in the picture, such as a class token."
        )
    return side


def _panel(figure: Figure, left: float, top: float) -> Axes:
    """Axes of a square panel; `left` and `top` are inches from the page's upper left corner."""
    width, height = figure.get_size_inches()
    corner = left / width, 1 - (top + THUMB) / height
    axes = figure.add_axes((*corner, THUMB / width, THUMB / height))
    axes.set_axis_off()
    return axes


def _head(panel: Axes, name: str) -> None:
    panel.set_title(name, loc="center", fontsize=9, fontweight="normal", color=QUIET, pad=3)


def _overlay(panel: Axes, picture: np.ndarray, weights: np.ndarray, colours: Normalize) -> None:
    grey = 1 - FADED * (1 - picture @ LUMA)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=1)
    rows, columns = grey.shape
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    panel.imshow(weights, cmap=HEAT, norm=colours, extent=extent, interpolation="nearest")


def _scale(figure: Figure, colours: Normalize, places: int) -> None:
    """The colour scale at the foot of the page, with a line at the weight of uniform maps."""
    width, height = figure.get_size_inches()
    left = MARGIN + LABEL
    bar = figure.add_axes((left / width, 0.48 / height, 3 / width, 0.12 / height))
    figure.colorbar(ScalarMappable(colours, HEAT), cax=bar, orientation="horizontal")
    bar.axvline(100 / places, color=INK, linewidth=1)
    bar.set_xlabel("% of a token's weight on one vision token")
    note = f"black line: {100 / places:.1f}%,\nif all {places} had equal weight"
    figure.text((left + 3.2) / width, 0.54 / height, note, color=QUIET, va="center", fontsize=8)
