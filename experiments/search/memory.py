"""Memory and look-ups of an index with many pictures: python experiments/search/memory.py <rows>.

Rows of random embeddings of width 768 and cells of 2,048 bytes; one process per figure.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from edje.index import image_table
from edje.index.exact_first_stage import ExactFirstStage, Wanted
from edje.index.image_table import EMBEDDING, PATH, ImageTable, TableFacts
from edje.index.known_pictures import KnownPictures, known_in

WIDTH, CELL, BATCH = 768, 2048, 256
FOUND, TIMED = 100, 15


def main(rows: int) -> None:
    """Write the rows; search them, load an addition's records, find ids; a process for each."""
    with tempfile.TemporaryDirectory() as scratch:
        for work in ("write", "nothing", "search", "know", "find"):
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
        KnownPictures(known_in(table), set())
    elif work == "find":
        find(rows, table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"{table.count():,} rows, {work}: peak {peak:.0f} MiB")


def find(rows: int, table: ImageTable) -> None:
    """Print how long some ids take to be found, without the indices and with them."""
    draws = np.random.default_rng(1)

    def milliseconds() -> float:
        taken = []
        for _ in range(TIMED):
            names = [picture_id(key) for key in draws.choice(rows, FOUND, replace=False).tolist()]
            start = time.perf_counter()
            assert len(table.named(names, [PATH])) == FOUND
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken)

    without, start = milliseconds(), time.perf_counter()
    image_table.INDEXED_FROM = 1
    table.index_look_ups()
    made = time.perf_counter() - start
    say(f"{FOUND} ids: {without:.0f} ms; indices made in {made:.2f} s: {milliseconds():.0f} ms")


def picture_id(key: int) -> str:
    """The id of a row."""
    return f"{key // 1000}/IMG_{key:06d}.jpg"


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
                    "id": picture_id(key),
                    "path": f"/home/somebody/Pictures/{picture_id(key)}",
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
