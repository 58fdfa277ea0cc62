"""How fast a token store is written, beside a plain file of the same bytes."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from edje.tokens.codec import Codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import ShardWriter, make_plan

_FEATURE_WIDTH = 768


def writing_speed(folder: Path, codec: Codec, num_bytes: int, turns: int = 5) -> dict[str, float]:
    """Write random cells, given, as a store and as one file, in turns; both are on disk at the end.

    Returns the medians in GB per second, and that of the stores' share of the file in each turn.
    What is written lies in a folder of its own under `folder`, and is removed.
    """
    plan = make_plan(
        Fingerprint({"benchmark": "writing"}),
        [f"{row:012d}" for row in range(max(1, num_bytes // codec.cell_bytes))],
        codec,
        _FEATURE_WIDTH,
    )
    draws = np.random.default_rng(0)
    cells = draws.integers(0, 256, (plan.shard_rows, codec.cell_bytes), dtype=np.uint8)
    features = np.zeros((plan.shard_rows, _FEATURE_WIDTH), np.float32)
    ids = [f"{row:012d}" for row in range(plan.num_images)]

    def write_file(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for index in range(plan.num_shards):
                rows = len(plan.shard_range(index))
                for column in (cells, features):
                    file.write(column[:rows].data)  # the ids are 12 bytes each
            os.fsync(file.fileno())

    def write_as_store(path: Path) -> None:
        path.mkdir()
        with writer_lock(path):
            unfinished = UnfinishedStore(path, plan, ids)
            unfinished.begin()
            with ShardWriter(unfinished) as writer:
                for rows in writer.batches(plan.shard_rows):
                    writer.put_cells(rows, cells[: len(rows)], features[: len(rows)])
            unfinished.finish()

    size = plan.num_images * (codec.cell_bytes + 4 * _FEATURE_WIDTH)
    place = folder / f"writing-{os.getpid()}"
    place.mkdir(parents=True)
    try:
        roads: dict[str, Callable[[Path], None]] = {"file": write_file, "store": write_as_store}
        speeds: dict[str, list[float]] = {name: [] for name in roads}
        for turn in range(turns + 1):
            for name in sorted(roads, reverse=turn % 2 == 1):
                speed = size / _seconds(roads[name], place / name) / 1e9
                if turn:  # the first warms up
                    speeds[name].append(speed)
    finally:
        shutil.rmtree(place)
    shares = [store / file for store, file in zip(speeds["store"], speeds["file"], strict=True)]
    return {
        "bytes": float(size),
        "file_gb_per_second": median(speeds["file"]),
        "store_gb_per_second": median(speeds["store"]),
        "share": median(shares),
    }


def _seconds(write: Callable[[Path], None], path: Path) -> float:
    os.sync()  # what another turn left dirty is not ours to wait for
    start = time.perf_counter()
    write(path)
    seconds = time.perf_counter() - start
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return seconds
