"""Claims about the memory that reading a store takes."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.manifest import STORE_FILE, read_manifest
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store

LONG = os.environ.get("EDJE_READ_GIGABYTES")  # 20 by hand: the size that the claim is about
GIGABYTES = float(LONG or 0.25)
TOKENS, WIDTH, ROWS = 64, 384, 512
STATUS = Path("/proc/self/status")


def megabytes(kind: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def sparse_store(folder: Path, gigabytes: float) -> TokenStore:
    """A store of zeros whose cells are holes: in memory they take their size, on disk nothing."""
    codec = make_codec("bf16", TOKENS, WIDTH)
    ids = [f"{row:04d}" for row in range(ROWS)]
    zeros = torch.zeros(ROWS, TOKENS, WIDTH), torch.zeros(ROWS, 1)
    write_store(
        folder,
        Fingerprint({"backbone": "none"}),
        ids,
        codec,
        1,
        lambda rows: (zeros[0][: len(rows)], zeros[1][: len(rows)]),
        shard_rows=ROWS,
    )
    manifest = read_manifest(folder / STORE_FILE)
    (shard,) = manifest.shards
    content = (folder / shard.file).read_bytes()
    end = shard.cells_at + ROWS * codec.cell_bytes
    files = [f"copy-{number:05d}.arrow" for number in range(int(gigabytes * 1e9) // len(content))]
    for name in files:
        with (folder / name).open("wb") as file:
            file.write(content[: shard.cells_at])
            file.seek(end)
            file.write(content[end:])
    copies = tuple(replace(shard, file=name) for name in files)
    whole = replace(manifest, num_images=ROWS * len(copies), shards=copies)
    whole.write(folder / STORE_FILE)
    return TokenStore.open(folder)


@pytest.mark.skipif(not STATUS.exists(), reason="/proc is Linux's")
def test_anonymous_memory_stays_flat_while_a_store_is_read_at_random(tmp_path: Path) -> None:
    store = sparse_store(tmp_path / "store", GIGABYTES)
    draws = torch.Generator().manual_seed(0)

    def read_some() -> None:
        rows = torch.randint(len(store), (256,), generator=draws)
        assert not store.read(rows, dtype=torch.bfloat16).any()

    for _ in range(5):  # buffers that are made once
        read_some()
    anonymous, mapped = [megabytes("RssAnon")], megabytes("RssFile")
    for _ in range(min(2 * len(store) // 256, 1000)):  # at most 12.6 GB
        read_some()
        anonymous.append(megabytes("RssAnon"))
    assert max(anonymous) - min(anonymous) < (200 if LONG else 40)
    assert megabytes("RssFile") > mapped + 0.2 * min(GIGABYTES, 4) * 1e3, "its files are mapped"
    if LONG:
        print(f"{len(store)} images: {min(anonymous):.0f} to {max(anonymous):.0f} MB")  # noqa: T201
