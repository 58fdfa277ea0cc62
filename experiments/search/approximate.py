"""The approximate first stage compared with the exact one, for many pictures.

python experiments/search/approximate.py <embeddings.npy> <queries.npy> <rows>

A row's embedding is a mixture of two pictures' with some noise, so that rows are distributed like
pictures. The queries are embeddings of texts. Both arrays have the shape (…, width), L2-normalised:
`reranker.encode(paths).embeddings` and `reranker.encode_text(texts)`.
"""

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from edje.index.approximate_first_stage import ApproximateFirstStage
from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.image_table import EMBEDDING, ImageTable, TableFacts, bytes_under

CELL, BATCH, K, TIMED = 16, 10_000, 100, 50


def main(embeddings: str, queries: str, rows: int) -> None:
    """Write the rows, index them, and search with all queries in turns."""
    vectors, texts = np.load(embeddings), torch.from_numpy(np.load(queries)[:TIMED])
    with tempfile.TemporaryDirectory() as scratch:
        table = written(Path(scratch), vectors, rows)
        before, start = bytes_under(Path(scratch)), time.perf_counter()
        table.make_index(EMBEDDING)
        say(f"made in {time.perf_counter() - start:.1f} s, {peak():.0f} MiB at most")
        say(f"{(bytes_under(Path(scratch)) - before) / rows:.0f} bytes a picture on the disk")
        start = time.perf_counter()
        approximate = ApproximateFirstStage(table, EMBEDDING)
        list(approximate.best([Wanted(texts[0], K)]))
        say(f"approximate: ready in {time.perf_counter() - start:.2f} s, {peak():.0f} MiB at most")
        say(f"recall@{K} by texts {approximate.recall(K, texts):.4f}")
        say(f"recall@{K} by pictures {approximate.recall(K):.4f}")
        start = time.perf_counter()
        exact = ExactFirstStage.of(table, EMBEDDING)
        list(exact.best([Wanted(texts[0], K)]))
        say(f"exact: ready in {time.perf_counter() - start:.2f} s, {peak():.0f} MiB at most")
        taken: dict[str, list[tuple[float, float]]] = {"exact": [], "approximate": []}
        for query in texts:
            for name, stage in (("exact", exact), ("approximate", approximate)):
                clock, processor = time.perf_counter(), time.process_time()
                list(stage.best([Wanted(query, K)]))
                taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    for name, times in taken.items():
        clock, processor = (1e3 * statistics.median(one) for one in zip(*times, strict=True))
        say(f"{name}: {clock:.1f} ms a query, {processor:.1f} ms of processors, medians")


def written(folder: Path, vectors: np.ndarray, rows: int) -> ImageTable:
    """A table of mixed embeddings."""
    draws = np.random.default_rng(0)
    table = ImageTable.create(folder, TableFacts({}, vectors.shape[1], CELL))
    for first in range(0, rows, BATCH):
        size = min(BATCH, rows - first)
        one, other = vectors[draws.integers(len(vectors), size=(2, size))]
        share = draws.uniform(0.5, 1, (size, 1))
        mixed = share * one + (1 - share) * other + draws.normal(0, 0.02, one.shape)
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        table.write(
            [
                {
                    "key": first + row,
                    "id": f"{first + row}",
                    "embedding": value,
                    "cell": bytes(CELL),
                }
                for row, value in enumerate(mixed.astype(np.float32))
            ],
            known=False,
        )
    return table


def peak() -> float:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def say(line: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
