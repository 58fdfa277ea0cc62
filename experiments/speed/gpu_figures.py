"""Figures, each with the least time in which the machine could do its counted work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from edje.benchmark.ceiling import Ceiling, Ceilings
from edje.benchmark.timing import timed_together


@dataclass(frozen=True)
class Work:
    """Arithmetic and bytes of one part of a call; the three can overlap."""

    flops: float = 0.0
    read_bytes: float = 0.0  # of the device's memory, each once
    sent_bytes: float = 0.0  # from host memory to the device

    def least_seconds(self, ceiling: Ceiling) -> float:
        """A lower bound; a copy reads and writes, so only reading is twice as fast."""
        return max(
            self.flops / ceiling.flops_per_second,
            self.read_bytes / (2 * ceiling.copied_bytes_per_second),
            self.sent_bytes / ceiling.sent_bytes_per_second,
        )


@dataclass(frozen=True)
class Lane:
    """A method: a call, its sequential parts of work, and facts for its figure.

    Args:
        units: pairs or images of a call.
        unit: `pairs/s`, `images/s`, or `ms` of a call.
        dtype: the number format whose ceiling it is measured against.
        goal: in `unit`.
        beside: name of the lane that it is compared with.
    """

    call: Callable[[], object]
    units: int
    unit: str
    parts: Sequence[Work]
    dtype: torch.dtype
    goal: float | None = None
    beside: str | None = None

    def in_unit(self, seconds: float) -> float:
        """The figure of a call that took this time."""
        return 1000 * seconds if self.unit == "ms" else self.units / seconds

    def raised(self, ceiling: Ceiling, fastest: float) -> Ceiling:
        """The ceiling, raised if this lane did all of its work in `fastest` seconds."""
        return ceiling.at_least(
            sum(part.flops for part in self.parts) / fastest,
            sum(part.read_bytes for part in self.parts) / fastest,
            sum(part.sent_bytes for part in self.parts) / fastest,
        )


@dataclass(frozen=True)
class Figure:
    """The measured figure of one lane."""

    name: str
    unit: str
    value: float  # of the median run
    slowest: float  # of the 99th percentile
    runs: int
    ceiling: float  # what the counted work allows, in the same unit
    share: float  # of the ceiling
    dtype: str
    goal: float | None
    beside: str | None
    times_as_fast: float | None  # compared with the lane `beside`

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.unit == "ms" else self.value >= self.goal


def in_turns(
    lanes: Mapping[str, Lane], device: torch.device, seconds: float, min_runs: int
) -> tuple[list[Figure], dict[torch.dtype, Ceiling]]:
    """Measure lanes and ceilings in the same turns, synchronising the device around each run."""
    probe = Ceilings(device, [lane.dtype for lane in lanes.values()])
    calls: dict[str, Callable[[], object]] = {"ceilings": probe}
    calls |= {name: lane.call for name, lane in lanes.items()}
    timings = timed_together(calls, device, warmup=3, min_runs=min_runs, seconds=seconds)
    ceilings = {lane.dtype: probe[lane.dtype] for lane in lanes.values()}
    for name, lane in lanes.items():
        ceilings[lane.dtype] = lane.raised(ceilings[lane.dtype], timings[name].fastest)
    figures = []
    for name, lane in lanes.items():
        least = sum(part.least_seconds(ceilings[lane.dtype]) for part in lane.parts)
        median = timings[name].median
        faster = None
        if lane.beside is not None:
            other = lanes[lane.beside]
            faster = timings[lane.beside].median / other.units * lane.units / median
        figures.append(
            Figure(
                name=name,
                unit=lane.unit,
                value=lane.in_unit(median),
                slowest=lane.in_unit(timings[name].quantile(0.99)),
                runs=len(timings[name].seconds),
                ceiling=lane.in_unit(least),
                share=least / median,
                dtype=str(lane.dtype).removeprefix("torch."),
                goal=lane.goal,
                beside=lane.beside,
                times_as_fast=faster,
            )
        )
    return figures, ceilings


def of_a_run(
    name: str, lane: Lane, seconds: Sequence[float], ceilings: Mapping[torch.dtype, Ceiling]
) -> Figure:
    """A figure of runs that can't take turns with others, with ceilings measured before."""
    ordered = sorted(seconds)
    median = ordered[(len(ordered) - 1) // 2]
    ceiling = lane.raised(ceilings[lane.dtype], ordered[0])
    least = sum(part.least_seconds(ceiling) for part in lane.parts)
    return Figure(
        name=name,
        unit=lane.unit,
        value=lane.in_unit(median),
        slowest=lane.in_unit(ordered[-1]),
        runs=len(ordered),
        ceiling=lane.in_unit(least),
        share=least / median,
        dtype=str(lane.dtype).removeprefix("torch."),
        goal=lane.goal,
        beside=None,
        times_as_fast=None,
    )


def as_table(figures: Sequence[Figure], title: str) -> Table:
    """A table with one row per figure."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    table.add_column("figure")
    for column in ("median", "p99", "runs", "goal", "ceiling", "share", "beside"):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        met = {None: "", True: " met", False: " missed"}[figure.is_met]
        goal = "" if figure.goal is None else f"{figure.goal:,.0f}{met}"
        beside = "" if figure.times_as_fast is None else f"{figure.times_as_fast:.2f}×"
        table.add_row(
            f"{figure.name}, {figure.dtype}",
            f"{shown(figure.value)} {figure.unit}",
            shown(figure.slowest),
            str(figure.runs),
            goal,
            shown(figure.ceiling),
            f"{100 * figure.share:.0f}%",
            beside,
        )
    return table


def as_rows(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures as rows for a file."""
    return [asdict(figure) | {"is_met": figure.is_met} for figure in figures]


def shown(value: float) -> str:
    """A number as text with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
