"""How many pairs go through an encoder at once: from the memory, then by a short calibration."""

import os
import time
from collections.abc import Callable

import torch

from edje.inference.cls_encoder import ClsEncoder

SMALLEST, LARGEST = 16, {"cpu": 256, "cuda": 4096}  # pairs
SHARE_OF_MEMORY = 0.25  # of what is free
ASSUMED_FREE = 2**31  # bytes, where the system doesn't say
UNTRIED = 64  # pairs, for encoders that can't be tried in part
TURNS = 3  # timed runs of each size
WORTH_IT = 1.03  # a larger batch must be this much faster per pair


class BatchSize:
    """The given size, or the one found when a call has pairs enough to tell sizes apart."""

    def __init__(self, given: int | None, encoder: ClsEncoder, device: torch.device):
        self.given = given
        self.encoder = encoder
        self.device = device
        self.chosen = given or SMALLEST
        self._largest_tried = SMALLEST

    def of(self, pairs: int, sequence: int) -> int:
        """For so many pairs of so many positions; found anew when more come than before."""
        if self.given is None:
            bytes_per_pair = self.encoder.bytes_per_pair(sequence)
            sizes = sizes_within(self.device, bytes_per_pair, pairs)
            if sizes[-1] > self._largest_tried:
                self._largest_tried = sizes[-1]
                self.chosen = calibrated(self.encoder.rehearsal(sequence), sizes, self.device)
        return self.chosen


def sizes_within(device: torch.device, bytes_per_pair: int, wanted: int) -> list[int]:
    """Powers of two to choose among: as many pairs as memory holds, no more than are wanted.

    At least one, if need be the smallest.
    """
    bound = int(SHARE_OF_MEMORY * free_bytes(device) / bytes_per_pair)
    largest = min(bound, wanted, LARGEST.get(device.type, 1024))
    return [SMALLEST << power for power in range(max(largest // SMALLEST, 1).bit_length())]


def calibrated(
    run: Callable[[int], object] | None,
    sizes: list[int],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """The size with the least time per pair; of sizes about as fast, the smallest.

    `run(pairs)` does a part of the work that grows as all of it does, such as one layer; without
    one the size is the largest up to `UNTRIED`.
    """
    if run is None:
        return max(size for size in sizes if size <= max(sizes[0], UNTRIED))
    best, per_pair = sizes[0], float("inf")
    for size in sizes:
        run(size)
        seconds = min(_timed(run, size, device, clock) for _ in range(TURNS)) / size
        if seconds * WORTH_IT < per_pair:
            best, per_pair = size, seconds
    return best


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return ASSUMED_FREE


def _timed(
    run: Callable[[int], object], size: int, device: torch.device, clock: Callable[[], float]
) -> float:
    started = clock()
    run(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started
