"""A small line chart as numbers for an SVG: coordinates of lines, bands, ticks and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 340.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 98.0, 8.0, 36.0  # margins; the right one holds the labels
MOST_POINTS = 400  # of a line; longer ones are thinned, as a page can't show more
LINE_HEIGHT = 13.0


@dataclass(frozen=True)
class Series:
    """A line's points; `kind` says how it is drawn (a class of the page's style)."""

    label: str  # at the line's end; empty for none
    kind: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Line:
    """A drawn series: coordinates in SVG's form."""

    kind: str
    points: str
    band: str | None
    label: str
    label_y: float | None


@dataclass(frozen=True)
class Chart:
    """What the page draws; ticks are pairs of place and text."""

    title: str
    description: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def line_chart(
    title: str, x_label: str, series: Sequence[Series], *, percent: bool = False
) -> Chart:
    """A chart of finite values; each labelled series has its name and last value at its end.

    Args:
        percent: the vertical axis ends at 100, and labels have one decimal.
    """
    shown = [one for one in map(_thinned, series) if len(one.x)]
    first, last = _range([one.x for one in shown])
    low, high = _range([ends for one in shown for ends in (one.y, one.low, one.high)])
    high = 100.0 if percent else high
    y_ticks = MaxNLocator(nbins=4, min_n_ticks=3).tick_values(low, high)
    low, high = min(low, y_ticks[0]), high if percent else max(high, y_ticks[-1])
    across = Axis((first, last), (LEFT, WIDTH - RIGHT))
    upward = Axis((low, high), (HEIGHT - BOTTOM, TOP))
    told = "{:.1f}".format if percent else number
    labelled = [one for one in shown if one.label]
    ends = _apart([upward(one.y[-1]) for one in labelled])
    places = {id(one): end for one, end in zip(labelled, ends, strict=True)}
    x_ticks = MaxNLocator(nbins=4, integer=True).tick_values(first, last)
    return Chart(
        title=title,
        description="; ".join(
            f"{one.label} from {told(one.y[0])} to {told(one.y[-1])}".strip() for one in labelled
        ),
        lines=tuple(
            _line(one, across, upward, f"{one.label} {told(one.y[-1])}", places.get(id(one)))
            for one in shown
        ),
        x_ticks=tuple((across(tick), number(tick)) for tick in x_ticks if first <= tick <= last),
        y_ticks=tuple((upward(tick), number(tick)) for tick in y_ticks if low <= tick <= high),
        x_label=x_label,
    )


def number(value: float) -> str:
    """A number in few digits.

    >>> number(1234.0), number(0.0123456), number(99.96), number(0.00075)
    ('1,234', '0.0123', '100', '7.5e-4')
    """
    if 0 < abs(value) < 1e-3:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """Maps values to places on the page, by two known pairs."""

    values: tuple[float, float]
    places: tuple[float, float]

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel."""
        return round(float(np.interp(value, self.values, self.places)), 1)


def _line(series: Series, across: Axis, upward: Axis, label: str, place: float | None) -> Line:
    def points(x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{across(a):g},{upward(b):g}" for a, b in zip(x, y, strict=True))

    band = None
    if series.low is not None and series.high is not None:
        there, back = points(series.x, series.high), points(series.x[::-1], series.low[::-1])
        band = f"{there} {back}"
    return Line(series.kind, points(series.x, series.y), band, label, place)


def _thinned(series: Series) -> Series:
    """Without values that aren't numbers, thinned to at most `MOST_POINTS`; keeps the last."""
    rows = np.flatnonzero(np.isfinite(series.y))
    rows = rows[::-1][:: max(-(-len(rows) // MOST_POINTS), 1)][::-1]
    ends = [None if end is None else end[rows] for end in (series.low, series.high)]
    return Series(series.label, series.kind, series.x[rows], series.y[rows], *ends)


def _range(values: Sequence[np.ndarray | None]) -> tuple[float, float]:
    every = np.concatenate([one for one in values if one is not None] or [np.zeros(1)])
    low, high = float(every.min()), float(every.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _apart(places: Sequence[float]) -> list[float]:
    """The places from top to bottom, moved apart so that each has room for a line of text."""
    order = np.argsort(places, kind="stable")
    moved, above = [0.0] * len(places), TOP - LINE_HEIGHT
    for row in order:
        above = moved[row] = max(places[row], above + LINE_HEIGHT)
    excess = above - (HEIGHT - BOTTOM)
    return [place - max(excess, 0.0) for place in moved]
