"""How many pairs an encoder reads at once: bounded by memory, chosen by a short calibration."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from edje.inference.cls_encoder import ClsEncoder
from edje.inference.turns import Clock, best_seconds

# Rows of the matrix products in one run: the positions of all its pairs.
SMALLEST, LARGEST = 2**11, {"cpu": 2**14, "cuda": 2**19}
SHARE_OF_MEMORY = 0.25  # of the free memory
ASSUMED_FREE = 2**31  # bytes, if the system doesn't report it
UNTRIED = 2**12  # rows, for encoders without a part that can be timed alone
WORTH_IT = 1.03  # a larger batch must be this much faster per pair


class BatchSize:
    """The given size, or one that is found once a call has enough pairs to compare sizes.

    The result is a number of rows, because a processor's caches and allocator depend on rows;
    longer pairs therefore run in smaller batches. `chosen` is the last call's pairs per batch.
    """

    def __init__(self, given: int | None, encoder: ClsEncoder, device: torch.device):
        self.given = given
        self.encoder = encoder
        self.device = device
        self.chosen = given or 1
        self._rows = self._largest_tried = SMALLEST

    def of(self, pairs: int, sequence: int) -> int:
        """Pairs per batch for `pairs` of `sequence` positions; recalibrated for larger calls."""
        if self.given is None:
            bytes_per_row = -(-self.encoder.bytes_per_pair(sequence) // sequence)
            sizes = sizes_within(self.device, bytes_per_row, pairs * sequence)
            if sizes[-1] > self._largest_tried:
                self._largest_tried = sizes[-1]
                run = self.encoder.rehearsal(sequence)
                in_rows = None if run is None else lambda rows: run(max(rows // sequence, 1))
                self._rows = calibrated(in_rows, sizes, self.device)
            self.chosen = max(self._rows // sequence, 1)
        return self.chosen


def sizes_within(device: torch.device, bytes_per_row: int, wanted: int) -> list[int]:
    """Candidate sizes: powers of two, up to the rows that fit in memory and those wanted.

    The list has at least one size, the smallest.
    """
    bound = int(SHARE_OF_MEMORY * free_bytes(device) / bytes_per_row)
    largest = min(bound, wanted, LARGEST.get(device.type, 2**16))
    return [SMALLEST << power for power in range(max(largest // SMALLEST, 1).bit_length())]


def calibrated(
    run: Callable[[int], object] | None,
    sizes: list[int],
    device: torch.device,
    clock: Clock = time.perf_counter,
) -> int:
    """The size with the least time per row; among sizes of similar speed, the smallest.

    `run(rows)` does a part of the work that scales like the whole, such as one layer. Without it,
    the size is the largest up to `UNTRIED`.
    """
    if run is None:
        return max(size for size in sizes if size <= max(sizes[0], UNTRIED))
    fastest = best_seconds([partial(run, size) for size in sizes], device, clock)
    best, per_row = sizes[0], float("inf")
    for size, seconds in zip(sizes, fastest, strict=True):
        if WORTH_IT * seconds / size < per_row:
            best, per_row = size, seconds / size
    return best


def free_bytes(device: torch.device) -> int:
    """Memory of the device that this process can get, in bytes.

    What torch holds of a GPU without using it counts, as does Linux's file cache.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    with suppress(OSError, StopIteration), Path("/proc/meminfo").open() as facts:
        line = next(line for line in facts if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not on every system
        return ASSUMED_FREE
