"""Writing a store: shard after shard, each finished by rename, `store.json` last."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edje.errors import EdjeError
from edje.tokens.codec import Codec
from edje.tokens.durable import writing_to
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.manifest import (
    STORE_FILE,
    Manifest,
    hash_ids,
    read_manifest,
)
from edje.tokens.unfinished import UnfinishedStore, foreign_store

Encode = Callable[
    [Sequence[int]],
    tuple[Float[Tensor, "images tokens width"], Float[Tensor, "images features"]],
]


def write_store(
    folder: Path,
    fingerprint: Fingerprint,
    image_ids: Sequence[str],
    codec: Codec,
    feature_width: int,
    encode: Encode,
    *,
    shard_rows: int = 512,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    wait: bool = True,
) -> None:
    """Fill a store with the tokens and pooled features that `encode` gives for rows of the ids.

    A complete store of the same fingerprint and ids is left as it is; of an unfinished one the
    finished shards are kept. Batches don't cross shards, so the bytes depend neither on where
    an earlier run was killed nor on how many runs it took. `progress` is told how many images
    are done since its last call, kept ones included. Another process that writes the same
    store is waited for.

    Raises:
        EdjeError: the folder holds another store, can't be written, or, with `wait` off, is
            being written; or a token can't be stored.
        ValueError: the ids are not sorted and unique, or `encode` gave other shapes.
    """
    if not image_ids or any(a >= b for a, b in pairwise(image_ids)):
        raise ValueError("image_ids must be sorted, unique and not empty")
    plan = Manifest(
        fingerprint=fingerprint,
        codec=codec.name,
        num_tokens=codec.num_tokens,
        width=codec.width,
        feature_width=feature_width,
        num_images=len(image_ids),
        image_ids=hash_ids(image_ids),
        shard_rows=shard_rows,
    )
    report = progress or (lambda _: None)
    if _is_complete(folder, plan):
        report(len(image_ids))
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder, wait=wait):
        if _is_complete(folder, plan):  # by the process that was waited for
            report(len(image_ids))
            return
        unfinished = UnfinishedStore(folder, plan, image_ids)
        report(len(image_ids) - sum(len(plan.shard_range(index)) for index in unfinished.pending()))
        for index in unfinished.pending():
            rows = plan.shard_range(index)
            cells = np.empty((len(rows), codec.cell_bytes), np.uint8)
            features = np.empty((len(rows), feature_width), np.float32)
            for batch in _batches(rows, batch_size):
                at = slice(batch.start - rows.start, batch.stop - rows.start)
                cells[at], features[at] = _encode_batch(batch, image_ids, codec, plan, encode)
                report(len(batch))
            unfinished.add(index, features, cells)
        unfinished.finish()


def _is_complete(folder: Path, plan: Manifest) -> bool:
    """Whether the folder holds just this store.

    Raises:
        EdjeError: it holds a complete store, but another.
    """
    try:
        found = read_manifest(folder / STORE_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    differences = found.differences(plan)
    if differences:
        raise foreign_store(folder, differences)
    return True


def _batches(rows: range, batch_size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, batch_size):
        yield range(start, min(start + batch_size, rows.stop))


def _encode_batch(
    batch: range, image_ids: Sequence[str], codec: Codec, plan: Manifest, encode: Encode
) -> tuple[np.ndarray, np.ndarray]:
    tokens, features = encode(batch)
    expected = ((len(batch), plan.num_tokens, plan.width), (len(batch), plan.feature_width))
    if (tuple(tokens.shape), tuple(features.shape)) != expected:
        raise ValueError(
            f"encode gave tokens {tuple(tokens.shape)} and features {tuple(features.shape)}, "
            f"expected {expected[0]} and {expected[1]}"
        )
    try:
        cells = codec.encode(tokens)
    except EdjeError as error:
        raise EdjeError(
            f"images {image_ids[batch.start]} to {image_ids[batch.stop - 1]}: {error}"
        ) from error
    return cells, features.detach().to("cpu", torch.float32).numpy()
