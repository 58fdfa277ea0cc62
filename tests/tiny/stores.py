"""Tiny stores whose tokens are a function of the row, and a script that kills their writer."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import edje
from edje.tokens.claims import Claims
from edje.tokens.codec import make_codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import is_being_written, writer_lock
from edje.tokens.store import TokenStore
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import make_plan, write_store

NUM_IMAGES, NUM_TOKENS, WIDTH, FEATURE_WIDTH, SHARD_ROWS = 50, 4, 6, 3, 8
IDS = [f"{row:03d}.jpg" for row in range(NUM_IMAGES)]
FINGERPRINT = Fingerprint({"backbone": "tiny", "layer": -1, "scale": 0.5, "codec": "fp16"})

PLAN = make_plan(FINGERPRINT, IDS, make_codec("fp16", NUM_TOKENS, WIDTH), FEATURE_WIDTH, SHARD_ROWS)


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


def as_recorded(record: Path, fields: dict[str, str | int | float], place: Path, tier: str) -> Path:
    """Give a folder these facts, letter by letter, and the name that they hash to; returns it."""
    content = json.loads(record.read_text()) | {"fingerprint": fields}
    if content.pop("checksum", None):
        text = json.dumps(content, sort_keys=True)
        content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    record.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    place.mkdir(parents=True, exist_ok=True)
    return record.parent.rename(place / f"{tier}-{digest[:12]}")


def refused(path: Path, *_: Any) -> Any:
    """Stands for a call that the file system refuses; root may do anything."""
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def run_script(*arguments: str) -> subprocess.Popen[str]:
    """This file as a program; see its end."""
    command = [sys.executable, "-m", "tests.tiny.stores", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(edje.__file__).parents[1])}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextmanager
def locked_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the folder's lock, until its standard input is closed."""
    program = f"""
import sys
from pathlib import Path
from edje.tokens.lock import writer_lock
with writer_lock(Path({str(folder)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    environment = os.environ | {"PYTHONPATH": str(Path(edje.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process


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
    """Start writers and kill each at a random moment until the store is done.

    A writer pauses before each batch. A kill comes within `later` seconds, or, as long as no
    shard gets finished, within a quarter more each time: a busy machine must get there too. It
    comes at once when a shard was finished, so that no writer finishes all that are left.

    Prints per kill how many shards were finished before, how many of these were written again
    (none should be), and whether the lock file was left.
    """
    make_store(folder.with_name("warm"))  # what is imported late is imported before the forks
    moments, within, before = random.Random(0), later, 0
    for _ in range(200):
        if (folder / "store.json").exists():
            break
        finished = finished_shards(folder)
        child = os.fork()
        if child == 0:
            make_store(folder, encode=slowly(pause))
            os._exit(0)
        within = max(later, within / 2) if len(finished) > before else 1.25 * within
        before = len(finished)
        end = time.monotonic() + moments.uniform(0.0, within)
        while time.monotonic() < end and len(finished_shards(folder)) == before:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        redone = [path for path, at in finished.items() if path.stat().st_mtime_ns != at]
        sys.stdout.write(f"{len(finished)} {len(redone)} {(folder / 'writer.lock').exists()}\n")


def finished_shards(folder: Path) -> dict[Path, int]:
    """When each finished shard of an unfinished store was written, in nanoseconds."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.glob("shard-*.arrow")
        if path.with_suffix(".json").exists()
    }


def lead(folder: Path) -> None:
    """Lead the writing of a store and leave all of its shards to others."""
    with writer_lock(folder):
        unfinished = UnfinishedStore(folder, PLAN, IDS)
        unfinished.begin()
        while unfinished.pending():
            time.sleep(0.02)
        unfinished.finish()


def hold(folder: Path, shard: int) -> None:
    """Claim a shard and keep it, until something comes from standard input."""
    claims = Claims(folder)
    assert claims.take(shard)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()


def leave_child(folder: Path) -> None:
    """Fork while holding a store's lock; the child says what it sees when this has been killed."""
    with writer_lock(folder):
        ends = os.pipe()
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        os.close(ends[1])
        os.read(ends[0], 1)  # returns when the parent's end of the pipe is gone too
        held = is_being_written(folder)
        with writer_lock(folder, wait=False):
            sys.stdout.write(f"{held} {is_being_written(folder)}\n")
            sys.stdout.flush()
            sys.stdin.readline()
        os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["lead", folder]:
            lead(Path(folder))
        case ["leave_child", folder]:
            leave_child(Path(folder))
        case ["hold", folder, shard]:
            hold(Path(folder), int(shard))
        case ["kill", folder, pause, later]:
            kill_writers(Path(folder), float(pause), float(later))
        case ["write", folder]:
            make_store(Path(folder), encode=slowly(0.05))
