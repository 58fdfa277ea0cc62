"""Claims about the memory that writing a store takes, and reading it at random then."""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store

LONG = os.environ.get("EDJE_WRITTEN_GIGABYTES")  # 20 by hand: the size that the claim is about
GIGABYTES = float(LONG or 0.25)  # in shards of 57 MB
CELL = (576, 768)  # SigLIP2 B/16 at 384 pixels: 0.88 MB in 16 bit
STATUS = Path("/proc/self/status")


def anonymous_megabytes() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@contextmanager
def sampled_memory() -> Iterator[list[float]]:
    """Anonymous memory of this process, every 20 ms."""
    samples: list[float] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            samples.append(anonymous_megabytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not STATUS.exists(), reason="/proc is Linux's")
def test_anonymous_memory_stays_flat_while_a_store_is_written_and_read(
    tmp_path: Path,
) -> None:
    codec = make_codec("bf16", *CELL)
    images = int(GIGABYTES * 1e9) // codec.cell_bytes
    tokens = torch.randn(64, *CELL, dtype=torch.bfloat16)
    marks: list[int] = []

    def encode(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        marks.append(len(samples))
        tokens[:, 0, 0] = rows[0]
        return tokens[: len(rows)], torch.zeros(len(rows), 768)

    ids = [f"{row:09d}" for row in range(images)]
    with sampled_memory() as samples:
        fingerprint = Fingerprint({"backbone": "random"})
        write_store(tmp_path / "store", fingerprint, ids, codec, 768, encode)
        written = len(samples)
        store = TokenStore.open(tmp_path / "store", fingerprint)
        for rows in torch.randint(images, (images // 64, 64)):
            store.read(rows, dtype=torch.bfloat16)
    shutil.rmtree(tmp_path / "store")
    once_begun = samples[marks[len(marks) // 4] :]
    assert max(once_begun) - min(once_begun) < 200
    assert max(samples[:written]) < samples[0] + 100, "shards are held"
    if LONG:
        for verb, part in (("written", samples[:written]), ("read", samples[written:])):
            print(f"{images} images {verb}: {min(part):.0f} to {max(part):.0f} MB")  # noqa: T201
