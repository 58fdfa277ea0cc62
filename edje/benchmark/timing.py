"""Timing several calls side by side, so that disturbances of the machine affect all alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from edje.inference.turns import synchronise

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Timing:
    """Seconds of the measured runs of one call."""

    seconds: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The shortest time that at least this share of the runs did not exceed.

        >>> Timing((3.0, 1.0, 2.0)).quantile(0.5)
        2.0
        """
        ordered = sorted(self.seconds)
        place = -int(-share * len(ordered) // 1) - 1  # ceil, counted from 0
        return ordered[max(place, 0)]

    @property
    def median(self) -> float:
        """The middle run."""
        return self.quantile(0.5)

    @property
    def fastest(self) -> float:
        """The shortest run."""
        return min(self.seconds)


def timed_together(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    warmup: int,
    min_runs: int,
    seconds: float,
    prepare: Callable[[str], object] = lambda name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run the calls in turns; the next is always the one with the least time so far.

    Ends when every call has had `min_runs` and all together `seconds`. Warm-up is not counted,
    and the device is synchronised before and after each run. `prepare` gets a call's name before
    each of its runs, unmeasured.
    """
    for warming, call in calls.items():
        for _ in range(warmup):
            prepare(warming)
            call()
    runs: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    while calls:
        name = _next(runs, spent, min_runs, seconds)
        if name is None:
            break
        prepare(name)
        synchronise(device)
        started = clock()
        calls[name]()
        synchronise(device)
        runs[name].append(clock() - started)
        spent[name] += runs[name][-1]
    return {name: Timing(tuple(times)) for name, times in runs.items()}


def _next(
    runs: Mapping[str, Sequence[float]],
    spent: Mapping[str, float],
    min_runs: int,
    seconds: float,
) -> str | None:
    """The call whose turn it is; None if all have had enough."""
    if sum(spent.values()) < seconds:
        return min(spent, key=lambda name: spent[name])
    wanting = [name for name, times in runs.items() if len(times) < min_runs]
    return min(wanting, key=lambda name: len(runs[name])) if wanting else None
