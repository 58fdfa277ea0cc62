"""A program whose children write an index and are killed at moments that it draws.

python killed.py <run folder> <work> <index folder> <pictures> <kills>

`work` is add, sync, or optimize; this of a copy of the index for each kill. It prints for each kill
whether the child died at work, how many pictures the index had then, and where it lies.
"""

import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import lancedb  # noqa: F401  # once, for all children
import torch

from edje import ImageIndex, Reranker
from edje.index import additions
from edje.index.image_table import ImageTable, Row

WORK: dict[str, Callable[[ImageIndex, str], object]] = {
    "add": lambda index, pictures: index.add(pictures, batch_size=3),
    "sync": lambda index, pictures: index.sync(pictures, batch_size=3),
    "optimize": lambda index, pictures: index.optimize(),
}
EXACT_UP_TO = {"add": 1000, "sync": 1000, "optimize": 0}  # beyond it optimising indexes embeddings
PAUSE = 0.02  # seconds before and after each write, so that nobody is done before he is killed
write = ImageTable.write


def main(run_folder: str, work: str, folder: str, pictures: str, kills: str) -> None:
    """Start and kill the children."""
    warnings.filterwarnings("ignore", "lancedb fork support is experimental")
    torch.set_num_threads(1)
    additions.GROUPS = 1  # each group is written at once
    reranker = Reranker.from_pretrained(run_folder, device="cpu")
    assert reranker.picture_encoder is not None  # built once, for all children
    latest = 0.15
    if work == "optimize":
        latest = in_a_child(lambda: timed(copy(folder, "timed"), reranker)) / 1e6
    draws = random.Random(3)
    for number in range(int(kills)):
        place = copy(folder, str(number)) if work == "optimize" else Path(folder)
        report, told = os.pipe()
        child = os.fork()
        if child == 0:
            ImageTable.write = slowly(told)  # type: ignore[method-assign]
            index = ImageIndex.open(place, reranker, exact_up_to=EXACT_UP_TO[work])
            if number % 2 == 0 or work == "optimize":
                os.write(told, b"begun")
            WORK[work](index, pictures)
            os._exit(0)
        os.close(told)
        os.read(report, 100)
        time.sleep(latest * draws.random())
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(report)
        count = in_a_child(lambda place=place: len(ImageIndex.open(place, reranker)))
        sys.stdout.write(f"{os.WIFSIGNALED(status)} {count} {place}\n")
        sys.stdout.flush()


def timed(folder: Path, reranker: Reranker) -> int:
    """Microseconds that optimising takes."""
    index = ImageIndex.open(folder, reranker, exact_up_to=0)
    start = time.monotonic()
    index.optimize()
    return int(1e6 * (time.monotonic() - start))


def slowly(told: int) -> Callable[[ImageTable, Sequence[Row], bool], None]:
    """How a child writes: it tells when it has."""

    def write_slowly(self: ImageTable, rows: Sequence[Row], known: bool) -> None:
        time.sleep(PAUSE)
        write(self, rows, known)
        os.write(told, b"written")
        time.sleep(PAUSE)

    return write_slowly


def copy(folder: str, name: str) -> Path:
    """A copy of the index beside it."""
    return Path(shutil.copytree(folder, Path(folder).with_name(f"{name}.edje")))


def in_a_child(asked: Callable[[], int]) -> int:
    """What a function gives in a process of its own: this one never uses the library."""
    answer, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, str(asked()).encode())
        os._exit(0)
    os.close(told)
    os.waitpid(child, 0)
    return int(os.read(answer, 100) or b"-1")


if __name__ == "__main__":
    main(*sys.argv[1:])
