"""Writing a store: shard by shard, each finished by rename, `store.json` last."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from edje.durable import writing_to
from edje.errors import EdjeError
from edje.tokens.claims import Claims
from edje.tokens.codec import Codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.manifest import (
    STORE_FILE,
    Manifest,
    hash_ids,
    read_manifest,
)
from edje.tokens.shard import ShardFile
from edje.tokens.unfinished import UnfinishedStore, foreign_store

Encode = Callable[
    [Sequence[int]],
    tuple[Float[Tensor, "images tokens width"], Float[Tensor, "images features"]],
]

_SHARD_ROWS = 2048
_SHARD_BYTES = 80_000_000
_ENCODED_BYTES = 8_000_000  # of cells at once; a codec needs a few times that in addition
_THREADS = 2  # waiting for the disk


def write_store(
    folder: Path,
    fingerprint: Fingerprint,
    image_ids: Sequence[str],
    codec: Codec,
    feature_width: int,
    encode: Encode,
    *,
    shard_rows: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    wait: bool = True,
) -> None:
    """Fill a store with the tokens and pooled features that `encode` returns for rows of the ids.

    A complete store with the same fingerprint and ids is left as it is; the finished shards of an
    unfinished one are kept. Batches don't cross shards, so the bytes depend neither on where
    an earlier run was killed nor on the number of runs. `progress` gets the number of images
    done since its last call, including kept ones. If another process writes the same store, this
    waits for it.

    Raises:
        EdjeError: the folder holds another store, can't be written, or, with `wait` off, is
            being written; or a token can't be stored.
        ValueError: the ids are not sorted and unique, or `encode` returns other shapes.
    """
    plan = make_plan(fingerprint, image_ids, codec, feature_width, shard_rows)
    report = progress or (lambda _: None)
    if is_complete(folder, plan):
        report(len(image_ids))
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder, wait=wait):
        if is_complete(folder, plan):  # the other process has written it
            report(len(image_ids))
            return
        unfinished = UnfinishedStore(folder, plan, image_ids)
        unfinished.begin()
        report(unfinished.finished_images())
        with ShardWriter(unfinished) as writer:
            for rows in writer.batches(batch_size):
                writer.put(rows, *encode(rows))
                report(len(rows))
        unfinished.finish()


def make_plan(
    fingerprint: Fingerprint,
    image_ids: Sequence[str],
    codec: Codec,
    feature_width: int,
    shard_rows: int | None = None,
) -> Manifest:
    """The content of a store to be written. Without `shard_rows`, shards have 2,048 images or, if
    these have more than 80 MB of tokens, a half, a quarter, … of that.

    Raises:
        ValueError: the ids are not sorted and unique.
    """
    if not image_ids or any(a >= b for a, b in pairwise(image_ids)):
        raise ValueError("image_ids must be sorted, unique and not empty")
    if shard_rows is None:
        shard_rows = _SHARD_ROWS
        while shard_rows > 1 and shard_rows * codec.cell_bytes > _SHARD_BYTES:
            shard_rows //= 2
    return Manifest(
        fingerprint=fingerprint,
        codec=codec.name,
        num_tokens=codec.num_tokens,
        width=codec.width,
        feature_width=feature_width,
        num_images=len(image_ids),
        image_ids=hash_ids(image_ids),
        shard_rows=shard_rows,
    )


def is_complete(folder: Path, plan: Manifest) -> bool:
    """Whether the folder holds exactly this store.

    Raises:
        EdjeError: it holds another complete store.
    """
    try:
        found = read_manifest(folder / STORE_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    differences = found.differences(plan)
    if differences:
        raise foreign_store(folder, differences)
    return True


class ShardWriter:
    """One process's part in filling a store: claims shards and writes their batches.

    Cells go to their shard's file as they come, so memory use is small, whatever the size of the
    store. At a shard's end, threads wait for the disk while the next shard is being filled. At
    the end of its `with` block everything that was put is on disk.
    """

    def __init__(self, unfinished: UnfinishedStore) -> None:
        self._unfinished = unfinished
        self._plan = unfinished.plan
        self._codec = self._plan.make_codec()
        self._shard: ShardFile | None = None
        self._features = np.empty((0, self._plan.feature_width), np.float32)
        self._threads = ThreadPoolExecutor(_THREADS)
        self._ending: deque[Future[None]] = deque()

    def __enter__(self) -> "ShardWriter":
        with writing_to(self._unfinished.folder):
            self._claims = Claims(self._unfinished.folder)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._ending and error is None:
                self._ending.popleft().result()
        finally:
            self._threads.shutdown()
            if self._shard is not None:
                self._shard.abandon()
            self._claims.close()

    def batches(self, batch_size: int) -> Iterator[range]:
        """Rows to encode and put, in this order: batches of shards that no other process writes."""
        for index in self._unfinished.claimed(self._claims):
            rows = self._plan.shard_range(index)
            for start in range(rows.start, rows.stop, batch_size):
                yield range(start, min(start + batch_size, rows.stop))

    def put(
        self,
        rows: range,
        tokens: Float[Tensor, "images tokens width"],
        features: Float[Tensor, "images features"],
    ) -> None:
        """Take an encoded batch, the next of `batches`; the last batch of a shard finishes it.

        Raises:
            EdjeError: a token or feature can't be stored, or the folder can't be written.
            ValueError: the shapes aren't the store's.
        """
        plan = self._plan
        expected = ((len(rows), plan.num_tokens, plan.width), (len(rows), plan.feature_width))
        if (tuple(tokens.shape), tuple(features.shape)) != expected:
            raise ValueError(
                f"encode gave tokens {tuple(tokens.shape)} and features {tuple(features.shape)}, "
                f"expected {expected[0]} and {expected[1]}"
            )
        values = features.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            wrong = rows[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
            raise EdjeError(
                f"image {self._unfinished.image_ids_of(range(wrong, wrong + 1))[0]}: the backbone "
                "gave features that are infinite or not numbers. Check its weights and precision "
                "before caching."
            )
        step = max(1, _ENCODED_BYTES // self._codec.cell_bytes)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            try:
                cells = self._codec.encode(tokens[part])
            except EdjeError as error:
                first, last = self._unfinished.image_ids_of(rows[part])
                raise EdjeError(f"images {first} to {last}: {error}") from error
            self._put_cells(rows[part], cells, values[part])

    def _put_cells(
        self,
        rows: range,
        cells: UInt8[np.ndarray, "images bytes"],
        features: Float[np.ndarray, "images features"],
    ) -> None:
        """Take an encoded batch in its stored form."""
        index, first = divmod(rows.start, self._plan.shard_rows)
        count = len(self._plan.shard_range(index))
        if self._shard is None:
            self._shard = self._unfinished.begin_shard(index)
            self._features = np.empty((count, self._plan.feature_width), np.float32)
        assert self._shard.rows == first, "batches come in order"
        self._features[first : first + len(rows)] = features
        with writing_to(self._unfinished.folder):
            self._shard.append(cells)
        if self._shard.rows == count:
            self._ending.append(self._threads.submit(self._end, index, self._shard, self._features))
            self._shard = None
            if len(self._ending) > _THREADS:
                self._ending.popleft().result()

    def _end(self, index: int, shard: ShardFile, features: np.ndarray) -> None:
        try:
            self._unfinished.finish_shard(index, shard, features)
        finally:
            shard.abandon()
        self._claims.give_back(index)
