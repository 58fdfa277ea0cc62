"""An unfinished store: which shards are finished, and how the others are added."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from edje.durable import rename, writing_to
from edje.errors import EdjeError
from edje.tokens.claims import CLAIMS_FILE, Claims, wait_until_alone
from edje.tokens.manifest import (
    PLAN_FILE,
    STORE_FILE,
    Manifest,
    Shard,
    read_manifest,
    read_shard_note,
    write_shard_note,
)
from edje.tokens.shard import ShardFile

log = logging.getLogger(__name__)


class UnfinishedStore:
    """An unfinished store, as seen by each of the processes that fill it together.

    One process leads: it holds the folder's `writer_lock`, calls `begin` before and `finish` after
    the others (or it alone) claim and add the shards. It may be sent to other processes.

    Raises:
        EdjeError: from all methods, if the folder can't be written.
    """

    def __init__(self, folder: Path, plan: Manifest, image_ids: Sequence[str]) -> None:
        self.folder = folder
        self.plan = plan
        self._image_ids = image_ids

    def begin(self) -> None:
        """Take over the finished shards of an earlier run with the same plan, and write the plan.

        This waits for processes that outlive their leader.

        Raises:
            EdjeError: the folder holds an unfinished store of another fingerprint.
        """
        with writing_to(self.folder):
            wait_until_alone(self.folder)
            self._adopt_folder()
        kept = self.plan.num_shards - len(self.pending())
        if kept:
            log.info("%s: keeping %d finished shards", self.folder, kept)

    def pending(self, among: Iterable[int] | None = None) -> list[int]:
        """Shards (among some, or all) still to be written, in order; none if not begun."""
        among = list(range(self.plan.num_shards) if among is None else among)
        finished = self._finished(among)
        return [index for index in among if index not in finished] if self.has_begun() else []

    def has_begun(self) -> bool:
        """Whether a leader has written the plan and not finished yet.

        Raises:
            EdjeError: it is another store's plan.
        """
        earlier = self._earlier_plan()
        if earlier is not None and not self._is_ours(earlier):
            differences = earlier.differences(self.plan) or ["shards: of another size"]
            raise foreign_store(self.folder, differences)
        return earlier is not None

    def finished_images(self) -> int:
        """The number of images in finished shards."""
        return sum(shard.rows for shard in self._finished(range(self.plan.num_shards)).values())

    def image_ids_of(self, rows: range) -> tuple[str, str]:
        """The first and the last id of rows."""
        return self._image_ids[rows.start], self._image_ids[rows.stop - 1]

    def claimed(self, claims: Claims) -> Iterator[int]:
        """Pending shards that no other process is writing, each claimed before it is yielded."""
        for index in self.pending():
            if claims.take(index):
                if self.pending([index]):
                    yield index
                else:
                    claims.give_back(index)  # another process was faster

    def unclaimed(self) -> list[int]:
        """Pending shards that no other process is writing; none if no process leads."""
        pending = self.pending()
        if not pending:
            return []
        claims = Claims(self.folder)
        try:
            return [index for index in pending if claims.take(index)]
        finally:
            claims.close()

    def begin_shard(self, index: int) -> ShardFile:
        """A file for the cells of a shard, in order."""
        rows = self.plan.shard_range(index)
        path = self.folder / shard_file(index)
        ids = self._image_ids[rows.start : rows.stop]
        with writing_to(self.folder):
            return ShardFile(path, ids, self.plan.make_codec().cell_bytes, self.plan.feature_width)

    def finish_shard(
        self, index: int, shard: ShardFile, features: Float32[np.ndarray, "images width"]
    ) -> None:
        """Finish a shard's file; once this returns, it survives a kill."""
        note = (self.folder / shard_file(index)).with_suffix(".json")
        with writing_to(self.folder):
            note.unlink(missing_ok=True)  # a shard without a note counts as unfinished
            write_shard_note(note, shard.finish(features))

    def finish(self) -> None:
        """Complete the store: the plan, now with all shards, is renamed to `store.json`.

        The notes are removed before that, so that a kill at any time leaves nothing behind.
        """
        finished = self._finished(range(self.plan.num_shards))
        assert len(finished) == self.plan.num_shards, "a store is finished after its last shard"
        shards = tuple(shard for _, shard in sorted(finished.items()))
        plan = self._earlier_plan() or self.plan  # its facts, if an earlier version began it
        with writing_to(self.folder):
            replace(plan, shards=shards).write(self.folder / PLAN_FILE)
            for note in self.folder.glob("shard-*.json"):
                note.unlink()
            (self.folder / CLAIMS_FILE).unlink()
            rename(self.folder / PLAN_FILE, self.folder / STORE_FILE)

    def _adopt_folder(self) -> None:
        """Keep the finished shards of an earlier run with this plan; remove other leftovers."""
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        earlier = self._earlier_plan()
        if earlier is not None and self._is_ours(earlier):
            return
        if earlier is not None:
            differences = earlier.fingerprint.differences(self.plan.fingerprint)
            if differences:
                raise foreign_store(self.folder, differences)
            log.warning("%s: starting again, because the images or shards changed", self.folder)
        for old in self.folder.glob("shard-*"):
            old.unlink()
        self.plan.write(self.folder / PLAN_FILE)

    def _is_ours(self, earlier: Manifest) -> bool:
        """Whether a plan is this store's, also if its version recorded fewer facts."""
        same = replace(earlier, shards=(), fingerprint=self.plan.fingerprint) == self.plan
        return same and not earlier.fingerprint.differences(self.plan.fingerprint)

    def _earlier_plan(self) -> Manifest | None:
        try:
            return read_manifest(self.folder / PLAN_FILE)
        except FileNotFoundError:
            return None

    def _finished(self, among: Iterable[int]) -> dict[int, Shard]:
        """Finished shards, from their notes or from the plan, which lists them at the end."""
        paths = {index: self.folder / shard_file(index) for index in among}
        found = {index: read_shard_note(path.with_suffix(".json")) for index, path in paths.items()}
        plan = self._earlier_plan()  # read last: `finish` writes it before it removes the notes
        listed = dict(enumerate(plan.shards if plan else ()))
        return {
            index: shard
            for index, path in paths.items()
            if (shard := found[index] or listed.get(index)) is not None and _is_whole(path, shard)
        }


def shard_file(index: int) -> str:
    """Name of a shard's file."""
    return f"shard-{index:05d}.arrow"


def _is_whole(path: Path, shard: Shard) -> bool:
    return path.is_file() and path.stat().st_size == shard.bytes


def foreign_store(folder: Path, differences: list[str]) -> EdjeError:
    """The error for a folder that holds other tokens than those to be written."""
    return EdjeError(
        f"the folder {folder} holds another token store ({'; '.join(differences)}). "
        "Delete it or choose another cache_dir, then run the same command again."
    )
