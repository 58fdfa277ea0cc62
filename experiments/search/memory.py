"""The memory of an index with many pictures: python experiments/search/memory.py <rows>.

Rows of random embeddings of width 768 and cells of 2,048 bytes; one process per figure.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.image_table import EMBEDDING, ImageTable, TableFacts
from edje.index.known_pictures import KnownPictures

WIDTH, CELL, BATCH = 768, 2048, 256


def main(rows: int) -> None:
    """Write the rows, then search them and load an addition's records, each in its own process."""
    with tempfile.TemporaryDirectory() as scratch:
        for work in ("write", "nothing", "search", "know"):
            subprocess.run([sys.executable, __file__, str(rows), work, scratch], check=True)


def part(rows: int, work: str, folder: Path) -> None:
    """Do one job and print this process's peak memory."""
    if work == "write":
        write(rows, folder)
    table = ImageTable.open(folder)
    assert table is not None
    if work == "search":
        search = ExactFirstStage.of(table, EMBEDDING)
        list(search.best([Wanted(search.embeddings[0], 100)]))
    elif work == "know":
        KnownPictures(table, set())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{table.count():,} rows, {work}: peak {peak:.0f} MiB")


def write(rows: int, folder: Path) -> None:
    """Write the rows as an addition does, one batch at a time."""
    draws = np.random.default_rng(0)
    table = ImageTable.create(folder, TableFacts({}, WIDTH, CELL))
    for first in range(0, rows, BATCH):
        keys = range(first, min(first + BATCH, rows))
        embeddings = draws.normal(size=(len(keys), WIDTH)).astype(np.float32)
        table.write(
            [
                {
                    "key": key,
                    "id": f"{key // 1000}/IMG_{key:06d}.jpg",
                    "path": f"/home/somebody/Pictures/{key // 1000}/IMG_{key:06d}.jpg",
                    "size": 10**6 + key,
                    "modified": 10**18 + key,
                    "hash": f"{key:032x}",
                    "embedding": embedding,
                    "cell": draws.bytes(CELL),
                }
                for key, embedding in zip(keys, embeddings, strict=True)
            ],
            known=False,
        )


def say(line: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(int(sys.argv[1]))
    else:
        part(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
