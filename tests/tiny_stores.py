"""Tiny stores whose tokens are a function of the row, and a script that kills their writer."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.store import TokenStore
from edje.tokens.writer import write_store

NUM_IMAGES, NUM_TOKENS, WIDTH, FEATURE_WIDTH, SHARD_ROWS = 50, 4, 6, 3, 8
IDS = [f"{row:03d}.jpg" for row in range(NUM_IMAGES)]
FINGERPRINT = Fingerprint({"backbone": "tiny", "layer": -1, "scale": 0.5, "codec": "fp16"})


def tokens_of(rows: Sequence[int]) -> Tensor:
    """Tokens (rows, 4, 6): random by row."""
    return torch.stack(
        [torch.randn(NUM_TOKENS, WIDTH, generator=torch.Generator().manual_seed(r)) for r in rows]
    )


def features_of(rows: Sequence[int]) -> Tensor:
    """Features (rows, 3)."""
    return torch.tensor([[row, row / 3, -row] for row in rows], dtype=torch.float32)


def encode(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    return tokens_of(rows), features_of(rows)


def make_store(folder: Path, codec: str = "fp16", **more: Any) -> Path:
    settings: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "image_ids": IDS,
        "codec": make_codec(codec, NUM_TOKENS, WIDTH),  # type: ignore[arg-type]
        "feature_width": FEATURE_WIDTH,
        "encode": encode,
        "shard_rows": SHARD_ROWS,
        "batch_size": 3,
    }
    write_store(folder, **(settings | more))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a store by name, but for the lock that a killed writer leaves."""
    files = sorted(path for path in folder.iterdir() if path.name != "writer.lock")
    return {path.name: path.read_bytes() for path in files}


def slowly(seconds: float) -> Callable[[Sequence[int]], tuple[Tensor, Tensor]]:
    def encode_slowly(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        time.sleep(seconds)
        return encode(rows)

    return encode_slowly


class StoreRows(Dataset[Tensor]):
    """The first three images of a store, for DataLoader workers."""

    def __init__(self, store: TokenStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> Tensor:
        return self.store.read(torch.tensor([row]))[0]


def kill_writers(folder: Path, pause: float, later: float) -> None:
    """Start writers and kill each at a random moment, later and later, until the store is done.

    A writer pauses before each batch; the n-th kill comes within `later` · n seconds.

    Prints per kill how many shards were finished before, how many of these were written again
    (none should be), and whether the lock file was left.
    """
    make_store(folder.with_name("warm"))  # what is imported late is imported before the forks
    moments = random.Random(0)
    for kill in range(60):
        if (folder / "store.json").exists():
            break
        finished = {
            path: path.stat().st_mtime_ns
            for path in folder.glob("shard-*.arrow")
            if path.with_suffix(".json").exists()
        }
        child = os.fork()
        if child == 0:
            make_store(folder, encode=slowly(pause))
            os._exit(0)
        time.sleep(moments.uniform(0.0, later * (kill + 1)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        redone = [path for path, at in finished.items() if path.stat().st_mtime_ns != at]
        sys.stdout.write(f"{len(finished)} {len(redone)} {(folder / 'writer.lock').exists()}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["kill", folder, pause, later]:
            kill_writers(Path(folder), float(pause), float(later))
        case ["write", folder]:
            make_store(Path(folder), encode=slowly(0.05))
