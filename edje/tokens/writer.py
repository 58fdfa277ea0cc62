"""Writing a store: shard after shard, each finished by rename, `store.json` last."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from edje.errors import EdjeError
from edje.tokens.codec import Codec
from edje.tokens.durable import rename, writing_to
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.manifest import (
    PLAN_FILE,
    STORE_FILE,
    Manifest,
    Shard,
    hash_ids,
    read_manifest,
    read_shard_note,
    write_shard_note,
)
from edje.tokens.shard import write_shard

logger = logging.getLogger(__name__)

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


class UnfinishedStore:
    """A store folder on its way: knows which shards are finished, and takes the others.

    Whoever uses it holds the folder's `writer_lock`. Finished shards of an earlier run with
    the same plan are kept.

    Raises:
        EdjeError: the folder holds an unfinished store of another fingerprint, or can't be
            written; all methods raise the latter.
    """

    def __init__(self, folder: Path, plan: Manifest, image_ids: Sequence[str]) -> None:
        self._folder = folder
        self._plan = plan
        self._image_ids = image_ids
        with writing_to(folder):
            self._shards = self._adopt_folder()
        if self._shards:
            logger.info("%s: keeping %d finished shards", folder, len(self._shards))

    def pending(self) -> list[int]:
        """Shards that are still to be written, in order."""
        return [index for index in range(self._plan.num_shards) if index not in self._shards]

    def add(
        self,
        index: int,
        features: Float32[np.ndarray, "images width"],
        cells: UInt8[np.ndarray, "images bytes"],
    ) -> None:
        """Write one shard; once this returns, no kill loses it."""
        rows = self._plan.shard_range(index)
        ids = self._image_ids[rows.start : rows.stop]
        path = self._folder / shard_file(index)
        note = path.with_suffix(".json")
        with writing_to(self._folder):
            note.unlink(missing_ok=True)  # a shard without a note counts as unfinished
            shard = write_shard(path, ids, features, cells)
            write_shard_note(note, shard)
        self._shards[index] = shard

    def finish(self) -> None:
        """Make the store complete: the plan, now with all shards, is renamed to `store.json`.

        The notes go before that, so that nothing is left over whenever a kill comes.
        """
        assert not self.pending(), "a store is finished after its last shard"
        shards = tuple(shard for _, shard in sorted(self._shards.items()))
        with writing_to(self._folder):
            replace(self._plan, shards=shards).write(self._folder / PLAN_FILE)
            for note in self._folder.glob("shard-*.json"):
                note.unlink()
            rename(self._folder / PLAN_FILE, self._folder / STORE_FILE)

    def _adopt_folder(self) -> dict[int, Shard]:
        """Finished shards of an earlier run with this plan; other leftovers are removed."""
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink()
        try:
            earlier = read_manifest(self._folder / PLAN_FILE)
        except FileNotFoundError:
            earlier = None
        if earlier is None or replace(earlier, shards=()) != self._plan:
            if earlier is not None:
                differences = earlier.fingerprint.differences(self._plan.fingerprint)
                if differences:
                    raise _foreign_store(self._folder, differences)
                logger.warning("%s: begun again, the images or shards changed", self._folder)
            for old in self._folder.glob("shard-*"):
                old.unlink()
            self._plan.write(self._folder / PLAN_FILE)
            return {}
        found = dict(enumerate(earlier.shards))  # not empty if the kill came in `finish`
        for index in range(self._plan.num_shards):
            note = read_shard_note((self._folder / shard_file(index)).with_suffix(".json"))
            if note is not None:
                found[index] = note
        return {index: shard for index, shard in found.items() if _is_whole(self._folder, shard)}


def shard_file(index: int) -> str:
    """Name of a shard's file."""
    return f"shard-{index:05d}.arrow"


def _is_whole(folder: Path, shard: Shard) -> bool:
    """Whether a shard's file is there with all its bytes."""
    path = folder / shard.file
    return path.is_file() and path.stat().st_size == shard.bytes


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
        raise _foreign_store(folder, differences)
    return True


def _foreign_store(folder: Path, differences: list[str]) -> EdjeError:
    return EdjeError(
        f"the folder {folder} holds another token store ({'; '.join(differences)}). "
        "Delete it or choose another cache_dir, then run task=cache again."
    )


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
