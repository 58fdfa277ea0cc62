"""A store on its way: which shards are finished, and how the others join them."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from edje.errors import EdjeError
from edje.tokens.durable import rename, writing_to
from edje.tokens.manifest import (
    PLAN_FILE,
    STORE_FILE,
    Manifest,
    Shard,
    read_manifest,
    read_shard_note,
    write_shard_note,
)
from edje.tokens.shard import write_shard

logger = logging.getLogger(__name__)


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
                    raise foreign_store(self._folder, differences)
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


def foreign_store(folder: Path, differences: list[str]) -> EdjeError:
    """The error for a folder that holds other tokens than those to be written there."""
    return EdjeError(
        f"the folder {folder} holds another token store ({'; '.join(differences)}). "
        "Delete it or choose another cache_dir, then run the same command again."
    )
