"""Methods to read a store's cells, compared in use: in queries and in batches.

python experiments/store/reading.py <folder> [--images 20000] [--seconds 2]

Writes three stores into the folder, which must not exist, prints a table and removes the stores.
"""

import argparse
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from edje.benchmark.models import random_reranker, random_text
from edje.benchmark.ours import score_query
from edje.benchmark.pages import drop_pages
from edje.benchmark.settings import Benchmark
from edje.benchmark.timing import Timing, timed_together
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.records import TextBatch
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.read_ahead import read_ahead
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store

CPU = torch.device("cpu")
DISTINCT = 256  # images with different content; the others repeat them
BATCH = 64
SHAPES = ((64, 384, 20), (16, 384, 20), (576, 1024, 2))  # tokens, width, twentieths of the images
log = logging.getLogger(__name__)
Call = Callable[[], object]


class MemoryMaps:
    """`np.memmap` of every shard, gathered shard by shard into one new array.

    Like ours, it reads ahead what was never read; it doesn't notice evicted pages.
    """

    def __init__(self, store: TokenStore):
        self.shard_rows, self.cell_bytes = store.manifest.shard_rows, store.cell_bytes
        folder = Path(str(store.folder))
        self.maps = [
            np.asarray(
                np.memmap(
                    folder / shard.file,
                    np.uint8,
                    "r",
                    offset=shard.cells_at,
                    shape=(shard.rows, store.cell_bytes),
                )
            )
            for shard in store.manifest.shards
        ]
        self.was_read = np.zeros(len(store), bool)

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copies of the cells of rows, in `out` if given."""
        for row in rows[~self.was_read[rows]].tolist():
            shard, place = divmod(row, self.shard_rows)
            read_ahead(self.maps[shard].ctypes.data, self.cell_bytes, [place])
        self.was_read[rows] = True
        out = np.empty((len(rows), self.cell_bytes), np.uint8) if out is None else out
        return self.copies(rows, out)

    def copies(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """One fancy index per shard."""
        shards, places = np.divmod(rows, self.shard_rows)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            out[here] = self.maps[shard][places[here]]
        return out


class MemoryMapsByRow(MemoryMaps):
    """The same, one row at a time, which copies each row once."""

    def copies(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """One plain index per row."""
        for number, row in enumerate(rows.tolist()):
            shard, place = divmod(row, self.shard_rows)
            out[number] = self.maps[shard][place]
        return out


class NewMemory(TokenStore):
    """Ours without reused memory."""

    @cached_property
    def _cells(self) -> Any:
        cells: Any = super()._cells
        cells._memory.is_large = lambda count: False
        return cells


class ByShard(TokenStore):
    """A store read by memory maps, shard by shard."""

    @cached_property
    def _cells(self) -> Any:
        return MemoryMaps(self)


class ByRow(TokenStore):
    """A store read by memory maps, row by row."""

    @cached_property
    def _cells(self) -> Any:
        return MemoryMapsByRow(self)


OURS = "ours"
STORES: Mapping[str, type[TokenStore]] = {
    OURS: TokenStore,
    "ours, new memory": NewMemory,
    "memmap by shard": ByShard,
    "memmap by row": ByRow,
}


def stored(folder: Path, images: int, tokens: int, width: int) -> Path:
    """A store of random tokens in bf16."""
    content = torch.randn(DISTINCT, tokens, width).bfloat16()

    def encode(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        return content[torch.tensor(rows) % DISTINCT], torch.zeros(len(rows), 1)

    ids = [f"{row:06d}" for row in range(images)]
    codec = make_codec("bf16", tokens, width)
    write_store(folder, Fingerprint({"backbone": "random"}), ids, codec, 1, encode)
    return folder


class Unconverted:
    """The host's part for a scorer on a GPU: cells, which the GPU unpacks."""

    def __init__(self, store: TokenStore):
        self.store, self.num_tokens = store, store.num_tokens

    def __len__(self) -> int:
        return len(self.store)

    def read(self, rows: Tensor, **how: Any) -> Tensor:
        """Tokens in the number format of the store."""
        return self.store.read(rows, dtype=torch.bfloat16)


class NoEncoder:
    """Replaces the joint encoder and takes no time."""

    def __init__(self, width: int):
        self.width = width

    def read_text(self, input_ids: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(*input_ids.shape, self.width)

    def cls_states(self, texts: Tensor, rows: Tensor, visual: Tensor) -> Tensor:
        """The first visual token."""
        return visual[:, 0].float()

    def bytes_per_pair(self, sequence: int) -> int:
        """Almost nothing."""
        return 4 * self.width

    def rehearsal(self, sequence: int) -> None:
        """There is nothing to compare."""


class Queries:
    """One text with k random images of a store, scored by a joint encoder of MiniLM-L12's size."""

    def __init__(self) -> None:
        sizes = Benchmark(tokens=[64])
        ids = random_text(sizes, sizes.text_tokens)
        self.text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        self.model = random_reranker(sizes, 64, 0)

    def calls(self, stores: Mapping[str, TokenStore], k: int, scored: bool) -> dict[str, Call]:
        """A query on each store; if nothing is scored, everything except a GPU's part."""
        visual: dict[str, Any] = dict(stores)
        if not scored:
            visual = {name: Unconverted(store) for name, store in stores.items()}
        some = ScoringSet(self.text, visual[OURS])
        scorer = StoredTokenScorer(self.model, some, torch.bfloat16, k)
        if not scored:
            scorer.encoder = NoEncoder(self.model.joint.width)

        def call(name: str) -> Call:
            own = scorer.on(ScoringSet(self.text, visual[name]))
            return lambda: score_query(own, torch.randint(len(visual[name]), (k,)))

        return {name: call(name) for name in stores}


def batches(stores: Mapping[str, TokenStore], dtype: torch.dtype | None) -> dict[str, Call]:
    """Random batches: as cells, or as tokens in a number format."""

    def read(store: TokenStore) -> object:
        rows = torch.randint(len(store), (BATCH,))
        return store.read_cells(rows.numpy()) if dtype is None else store.read(rows, dtype=dtype)

    return {name: partial(read, store) for name, store in stores.items()}


def cold(folder: Path, seconds: float) -> dict[str, Timing]:
    """Batches of cells with no pages in memory, each from a newly opened store."""
    files = sorted(folder.glob("*.arrow"))
    store: TokenStore | None = None

    def prepare(name: str) -> None:
        nonlocal store
        store = None  # mapped pages can't be dropped
        drop_pages(files)
        store = STORES[name].open(folder)
        store.read_cells(np.empty(0, np.int64))

    def read() -> object:
        assert store is not None
        return store.read_cells(torch.randperm(len(store))[:BATCH].numpy())

    calls = dict.fromkeys(STORES, read)
    return timed_together(calls, CPU, warmup=1, min_runs=5, seconds=seconds, prepare=prepare)


@contextmanager
def one_thread(alone: bool) -> Iterator[str]:
    """Use one thread, as in a loading process, or all threads of torch; yields a label."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if alone else threads)
    yield "1 thread" if alone else f"{threads} threads"
    torch.set_num_threads(threads)


class Report:
    """A table of medians, with each row's ratios to ours."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.table = Table("cells", "setting", "threads", *(f"{name}, ms" for name in STORES))

    def measure(self, cells: str, setting: str, threads: str, calls: Mapping[str, Call]) -> None:
        """Measure the calls in turns and add a row."""
        self.add(
            cells,
            setting,
            threads,
            timed_together(calls, CPU, warmup=3, min_runs=5, seconds=self.seconds),
        )

    def add(self, cells: str, setting: str, threads: str, timings: Mapping[str, Timing]) -> None:
        """Add a row."""
        ours = timings[OURS].median
        medians = [timings[name].median for name in STORES]
        values = [f"{1000 * median:.3g} ({median / ours:.2f})" for median in medians]
        self.table.add_row(cells, setting, threads, *values)
        log.info("%s", " | ".join([cells, setting, threads, *values]))


def main(folder: Path, images: int, seconds: float) -> None:
    """Measure all settings, store by store."""
    report = Report(seconds)
    queries = Queries()
    folder.mkdir(parents=True)
    try:
        for tokens, width, twentieths in SHAPES:
            count = images * twentieths // 20
            place = stored(folder / str(tokens), count, tokens, width)
            stores = {name: kind.open(place) for name, kind in STORES.items()}
            for store in stores.values():
                for rows in torch.arange(count).split(BATCH):
                    store.read_cells(rows.numpy())
            cells = f"{stores[OURS].cell_bytes:,} bytes, {stores[OURS].manifest.num_shards} shards"
            for alone in (False, True):
                with one_thread(alone) as threads:
                    for k in (20, 100) if tokens == 64 else ():
                        some = queries.calls(stores, k, scored=False)
                        report.measure(cells, f"query, k={k}, nothing scored", threads, some)
                    for dtype, how in ((None, "cells"), (torch.float32, "float32")):
                        some = batches(stores, dtype)
                        report.measure(cells, f"batch of {BATCH}, {how}", threads, some)
            if tokens == 64:
                with one_thread(False) as threads:
                    for k in (20, 100):
                        some = queries.calls(stores, k, scored=True)
                        report.measure(cells, f"query, k={k}, scored here", threads, some)
            del stores, store, some
            for alone in (False, True):
                with one_thread(alone) as threads:
                    report.add(cells, f"cold, {BATCH} cells", threads, cold(place, seconds))
            shutil.rmtree(place)
    finally:
        shutil.rmtree(folder)
    Console(width=200).print(report.table)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each setting")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.images, arguments.seconds)
