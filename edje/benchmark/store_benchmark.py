"""The token store compared with raw files: warm and cold random reads, and writing."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from edje.benchmark.pages import LEFT, drop_all, drop_pages, kernel_read_ahead, share_left
from edje.benchmark.store_lanes import (
    STORED,
    Lane,
    MemoryMapLane,
    PreadLane,
    RandomMapLane,
    StoreLane,
)
from edje.benchmark.timing import Timing, timed_together
from edje.ranges import PositiveInt
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.read_ahead import read_whole
from edje.tokens.writer import write_store

log = logging.getLogger(__name__)
Tier = Literal["warm", "cold", "write"]
CPU = torch.device("cpu")
OURS, MAP, PLAIN = "store", "memory map", "plain write"
DISTINCT = 1024  # images of different content; the others repeat them


@dataclass(frozen=True, kw_only=True)
class StoreBenchmark:
    """Sizes of the store and of the measurement; the tokens are random and stored in bf16.

    Args:
        images: cells of the store, and of the flat file with the same cells.
        tokens: tokens per image.
        width: width of a token; 64 × 384 are 49,152 bytes per cell.
        batches: random rows per warm read; each number is a setting of its own.
        cold_batches: random rows per cold read, likewise.
        threads: of the preadv lane.
        min_runs: least number of measured runs of each lane in each setting; writing has one
            less than twice as many.
        seconds: wall time of a reading setting, shared by its lanes; preparation before a run is
            not counted.
    """

    images: PositiveInt = 20_000
    tokens: PositiveInt = 64
    width: PositiveInt = 384
    batches: Sequence[int] = (64, 256, 1000)
    cold_batches: Sequence[int] = (100, 256)
    threads: PositiveInt = 16
    min_runs: PositiveInt = 5
    seconds: float = 10.0


@dataclass(frozen=True)
class StoreRow:
    """One lane in one setting."""

    lane: str
    tier: Tier
    batch: int  # cells per run
    cell_bytes: int
    runs: int
    cells_per_second: float  # of the median run
    gb_per_second: float  # 10^9 bytes
    p50_ms: float
    p99_ms: float  # the slowest run if there are fewer than 100
    ratio: float  # of the speed to that of the memory map or plain write, in the same run


def measure_store(
    sizes: StoreBenchmark, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the measurement, and facts of the machine; files are in `folder` meanwhile.

    If the file system keeps pages in memory, cold reads are left out, and the facts say so.
    """
    folder.mkdir(parents=True)
    try:
        rows = measure_writing(sizes, folder)
        flat, shape = folder / "flat.bin", (sizes.images, sizes.tokens, sizes.width)
        lanes: dict[str, Lane] = {
            OURS: StoreLane(folder / "store", shape),
            MAP: MemoryMapLane(flat, shape),
            f"preadv, {sizes.threads} threads": PreadLane(flat, shape, sizes.threads),
        }
        advised = {"map, MADV_RANDOM": RandomMapLane(flat, shape)}  # warm: nothing is read around
        files = [flat, *sorted((folder / "store").glob("*.arrow"))]
        for batch in sizes.batches:
            rows += measure_warm(sizes, lanes, batch, files)
        left = share_left(files)
        if left <= LEFT:
            for batch in sizes.cold_batches:
                rows += measure_cold(sizes, lanes | advised, batch, files)
        else:
            log.warning("no cold reads: %.0f%% of the pages can't be dropped", 100 * left)
        machine = {
            "device": f"cpu ({torch.backends.cpu.get_cpu_capability()})",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "images": sizes.images,
            "file_bytes": flat.stat().st_size,
            "kernel_read_ahead_kb": kernel_read_ahead(flat),
            "pages_dropped": "fsync, posix_fadvise(DONTNEED), mincore" if left <= LEFT else None,
        }
    finally:
        shutil.rmtree(folder)
    return [asdict(row) for row in rows], machine


def measure_writing(sizes: StoreBenchmark, folder: Path) -> list[StoreRow]:
    """The writer alone, with tokens in memory, and the same cells in one file; both fsynced.

    They take turns one by one, however long each takes. Before each turn, three times the bytes
    are allocated, touched and freed: a virtual machine waits for its host at pages that it has
    not used for a while, and without this a run took up to three times as long.
    """
    tokens = torch.randn(min(sizes.images, DISTINCT), sizes.tokens, sizes.width).to(STORED)
    codec = make_codec("bf16", sizes.tokens, sizes.width)
    cells = codec.encode(tokens)
    ids = [f"{number:08d}" for number in range(sizes.images)]
    targets = {OURS: folder / "store", PLAIN: folder / "flat.bin"}

    def encode(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        first = rows[0] % len(tokens)
        if first + len(rows) <= len(tokens):
            return tokens[first : first + len(rows)], torch.zeros(len(rows), 1)
        return tokens[torch.tensor(rows) % len(tokens)], torch.zeros(len(rows), 1)

    def write_ours() -> None:
        write_store(targets[OURS], Fingerprint({"benchmark": "store"}), ids, codec, 1, encode)

    def write_plainly() -> None:
        with targets[PLAIN].open("wb") as file:
            for first in range(0, sizes.images, len(cells)):
                file.write(cells[: sizes.images - first].data)
            file.flush()
            os.fsync(file.fileno())

    def prepare(name: str) -> None:
        if targets[name].is_dir():
            shutil.rmtree(targets[name])
        targets[name].unlink(missing_ok=True)
        os.sync()  # otherwise an fsync would wait for the disk to finish the previous run
        np.ones((3, sizes.images, codec.cell_bytes), np.uint8)

    calls = {OURS: write_ours, PLAIN: write_plainly}
    timings = timed_together(
        calls,
        CPU,
        warmup=1,
        min_runs=2 * sizes.min_runs - 1,
        seconds=0.0,
        prepare=prepare,
    )
    return _rows(timings, "write", sizes.images, sizes, PLAIN)


def measure_warm(
    sizes: StoreBenchmark, lanes: Mapping[str, Lane], batch: int, files: Sequence[Path]
) -> list[StoreRow]:
    """Random rows of files whose pages are in memory and mapped.

    Pages differ in size by how they were loaded, and so does the speed of reads. So all pages are
    dropped and read anew. As in a loop over batches, a measured read follows an unmeasured one of
    its own lane: after another lane's it would find that lane's data in the processor's caches.
    """
    drop_pages(files)
    for path in files:
        read_whole(path)
    for lane in lanes.values():
        lane.open()
        for rows in torch.arange(sizes.images).split(batch):
            lane.read(rows)

    def prepare(name: str) -> None:
        lanes[name].read(_draw(sizes.images, batch))

    timings = _read_in_turns(sizes, lanes, batch, prepare)
    for lane in lanes.values():
        lane.close()
    return _rows(timings, "warm", batch, sizes, MAP)


def measure_cold(
    sizes: StoreBenchmark, lanes: Mapping[str, Lane], batch: int, files: Sequence[Path]
) -> list[StoreRow]:
    """Random rows, with all pages of all files dropped before every read."""

    def prepare(name: str) -> None:
        for lane in lanes.values():
            lane.close()  # mapped pages can't be dropped
        drop_all(files)
        lanes[name].open()

    timings = _read_in_turns(sizes, lanes, batch, prepare)
    for lane in lanes.values():
        lane.close()
    return _rows(timings, "cold", batch, sizes, MAP)


def _read_in_turns(
    sizes: StoreBenchmark, lanes: Mapping[str, Lane], batch: int, prepare: Callable[[str], None]
) -> dict[str, Timing]:
    """Different rows every time, drawn before the clock starts; no row twice in a read."""
    drawn = torch.empty(0, dtype=torch.long)

    def draw(name: str) -> None:
        nonlocal drawn
        drawn = _draw(sizes.images, batch)
        prepare(name)

    def call(lane: Lane) -> Callable[[], object]:
        return lambda: lane.read(drawn)

    return timed_together(
        {name: call(lane) for name, lane in lanes.items()},
        CPU,
        warmup=1,
        min_runs=sizes.min_runs,
        seconds=sizes.seconds,
        prepare=draw,
    )


def _draw(images: int, count: int) -> torch.Tensor:
    draws = np.random.default_rng(int(torch.randint(2**31, ())))
    return torch.from_numpy(draws.choice(images, count, replace=False))


def _rows(
    timings: Mapping[str, Timing], tier: Tier, batch: int, sizes: StoreBenchmark, peer: str
) -> list[StoreRow]:
    cell_bytes = sizes.tokens * sizes.width * STORED.itemsize
    return [
        StoreRow(
            lane=lane,
            tier=tier,
            batch=batch,
            cell_bytes=cell_bytes,
            runs=len(timing.seconds),
            cells_per_second=batch / timing.median,
            gb_per_second=batch * cell_bytes / timing.median / 1e9,
            p50_ms=1000 * timing.median,
            p99_ms=1000 * timing.quantile(0.99),
            ratio=timings[peer].median / timing.median,
        )
        for lane, timing in timings.items()
    ]
