"""First stages over many embeddings: python experiments/scale/first_stage.py [<rows>] [<width>].

Exact search, compared with an IVF_PQ index of LanceDB, which `ImageIndex` does not use (it has
IVF_SQ, see experiments/search/approximate.py): time per query, bytes, and how many of the exact
100 best it finds. Embeddings are drawn around 1,000 centres and queries are perturbed images. They
may be easier or harder than yours, so the recall says little more than that the comparison runs.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import torch
from lancedb.index import IvfPq

from edje.index.image_table import bytes_under
from edje.retrieval.exact import similarities

CENTRES, BATCH, QUERIES, BEST = 1000, 20_000, 30, 100


def main(rows: int = 200_000, width: int = 1024) -> None:
    """Draw, index, and search with both methods."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(CENTRES, width)).astype(np.float32)
    embeddings = np.empty((rows, width), np.float32)
    for first in range(0, rows, BATCH):
        some = embeddings[first : first + BATCH]
        some[:] = centres[draws.integers(CENTRES, size=len(some))]
        some += draws.normal(size=some.shape).astype(np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    queries = embeddings[draws.integers(rows, size=QUERIES)]
    queries = queries + draws.normal(size=queries.shape).astype(np.float32) / width**0.5
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    held = torch.from_numpy(embeddings)

    def exact(query: np.ndarray) -> list[int]:
        return similarities(torch.from_numpy(query)[None], held)[0].topk(BEST).indices.tolist()

    right, milliseconds = answered(queries, exact)
    say(f"exact, {rows:,} x {width}: {milliseconds:.1f} ms, {4 * width:,} bytes of memory each")
    with tempfile.TemporaryDirectory() as scratch:
        kind = pa.list_(pa.float32(), width)
        table = lancedb.connect(scratch).create_table("t", schema=pa.schema([("vector", kind)]))
        for first in range(0, rows, BATCH):
            flat = pa.array(embeddings[first : first + BATCH].ravel())
            table.add(pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, type=kind)}))
        before, begun = bytes_under(Path(scratch)), time.monotonic()
        table.create_index("vector", config=IvfPq(distance_type="dot"))
        seconds, added = time.monotonic() - begun, bytes_under(Path(scratch)) - before
        say(f"IVF_PQ: made in {seconds:.0f} s, {added / rows:.0f} bytes each")
        for probes, refined in ((10, 1), (20, 10), (50, 10)):

            def search(
                query: np.ndarray, probes: int = probes, refined: int = refined
            ) -> list[int]:
                wanted = table.search(query).limit(BEST).nprobes(probes).refine_factor(refined)
                return (
                    wanted.with_row_id(True)
                    .select(["_rowid", "_distance"])
                    .to_arrow()["_rowid"]
                    .to_pylist()
                )

            found, milliseconds = answered(queries, search)
            ids = [[(one >> 32) * BATCH + (one & 0xFFFFFFFF) for one in rows] for rows in found]
            hits = [len({*a} & {*b}) / BEST for a, b in zip(right, ids, strict=True)]
            say(
                f"IVF_PQ, {probes} probes, {refined} x refined: {milliseconds:.1f} ms, "
                f"{statistics.mean(hits):.0%} of the exact {BEST}"
            )


def answered(
    queries: np.ndarray, search: Callable[[np.ndarray], list[int]]
) -> tuple[list[list[int]], float]:
    """Rows for each query, and the median time in milliseconds."""
    found, taken = [], []
    search(queries[0])
    for query in queries:
        begun = time.perf_counter()
        found.append(search(query))
        taken.append(1e3 * (time.perf_counter() - begun))
    return found, statistics.median(taken)


def say(line: str) -> None:
    """Print a line immediately."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
