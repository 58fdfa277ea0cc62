"""Compare the speed of several methods here: a few runs of each, in turns."""

import time
from collections.abc import Callable, Sequence

import torch

TURNS = 3  # timed runs of each, in turns, so that other load affects all alike
Clock = Callable[[], float]


def best_seconds(
    calls: Sequence[Callable[[], object]],
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """The shortest time of each call, after one run of each that isn't counted."""
    for call in calls:
        call()
    timed = [[_timed(call, device, clock) for call in calls] for _ in range(TURNS)]
    return [min(seconds) for seconds in zip(*timed, strict=True)]


def seconds_in_one_thread(
    calls: Sequence[Callable[[], object]], clock: Clock = time.thread_time
) -> list[float]:
    """The same on a CPU in one thread, by its CPU time, which other load hardly affects.

    For choices that change scores by rounding, so that they are the same in every run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return best_seconds(calls, torch.device("cpu"), clock)
    finally:
        torch.set_num_threads(threads)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _timed(call: Callable[[], object], device: torch.device, clock: Clock) -> float:
    started = clock()
    call()
    synchronise(device)
    return clock() - started
