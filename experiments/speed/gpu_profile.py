"""Where the time of a call goes: a GPU's busiest kernels, or a CPU's operators."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from gpu_figures import Figure
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from edje.inference.turns import synchronise

MOST = 12  # kernels of a profile
WIDEST = 70  # characters of a kernel's name


@dataclass(frozen=True)
class Kernel:
    """All runs of one kernel, or operator, in a call."""

    name: str
    runs: int
    ms: float


@dataclass(frozen=True)
class Profile:
    """The busiest kernels of one call, busiest first."""

    name: str
    ms: float  # of the call while it was followed, from its start to the device's end
    busy_ms: float  # of all kernels together
    kernels: Sequence[Kernel]


@dataclass(frozen=True)
class Measured:
    """What one part measured."""

    figures: Sequence[Figure]
    profiles: Sequence[Profile]


def profile_of(name: str, call: Callable[[], object], device: torch.device) -> Profile:
    """Follow one call; it should have run before, so that nothing is set up."""
    followed = {ProfilerActivity.CPU}
    if device.type == "cuda":  # kernels too, where they can be followed
        followed |= torch.profiler.supported_activities() & {ProfilerActivity.CUDA}
    synchronise(device)
    with profile(activities=followed) as seen:
        started = time.perf_counter()
        call()
        synchronise(device)
        seconds = time.perf_counter() - started
    events = seen.key_averages()
    on_device = [  # without annotations, which hold kernels that are listed too
        event
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    kernels = [
        Kernel(event.key, event.count, event.self_device_time_total / 1000) for event in on_device
    ] or [Kernel(event.key, event.count, event.self_cpu_time_total / 1000) for event in events]
    kernels.sort(key=lambda kernel: kernel.ms, reverse=True)
    busy = sum(kernel.ms for kernel in kernels)
    return Profile(name, 1000 * seconds, busy, kernels[:MOST])


def as_profile_table(profile: Profile) -> Table:
    """A table with one row per kernel."""
    title = f"{profile.name}: {profile.ms:.3g} ms, {100 * profile.busy_ms / profile.ms:.0f}% busy"
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title=title, min_width=len(title))
    table.add_column("kernel", no_wrap=True, max_width=WIDEST)
    for column in ("runs", "ms", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for kernel in profile.kernels:
        share = f"{100 * kernel.ms / profile.busy_ms:.0f}%"
        table.add_row(kernel.name, str(kernel.runs), f"{kernel.ms:.3g}", share)
    return table
