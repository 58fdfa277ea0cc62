"""Adding pictures to an index: new or changed ones are read by threads, encoded and written."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from edje.errors import EdjeError
from edje.images.decoder import MissingDecoder, brief, decoded
from edje.images.pictures import rgb_of
from edje.index.given_pictures import GivenPicture, written_path
from edje.index.image_table import (
    ADDED,
    CELL,
    EMBEDDING,
    HASH,
    HEIGHT,
    ID,
    KEY,
    MODIFIED,
    PATH,
    PROBLEM,
    SIZE,
    WIDTH,
    ImageTable,
    Row,
)
from edje.index.known_pictures import KnownPicture, KnownPictures, LookedUpPictures, known_in
from edje.index.shards import Shard
from edje.inference.picture_encoder import PictureEncoder, prepared_ahead
from edje.inference.reranker import Reranker

GROUPS = 8  # groups of pictures through the tower that are written together at first;
GROWTH, MOST_ROWS = 32, 4096  # then a 32nd of what is written, at most so many pictures …
SECONDS = 20.0  # … or fewer, if they take this long
ROWS_READ = 2000  # of the index, in the time that looking up one picture takes at most
OF_THE_CONTENT = (EMBEDDING, CELL, WIDTH, HEIGHT)  # columns shared by files with equal content
log = logging.getLogger(__name__)
_reading = threading.Lock()  # PIL reads an opened file on first use: only in one thread at a time
OnError = Literal["record", "raise"]


@dataclass(frozen=True)
class Added:
    """The result of an addition, in numbers of pictures.

    `moved` pictures keep their tokens from another id. `touched` ones differ only in time or
    place. `gone` ones disappeared during the addition. `removed` ones were in the index but are
    no longer in the folder.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    touched: int = 0
    unchanged: int = 0
    problems: int = 0
    gone: int = 0
    removed: int = 0

    def __str__(self) -> str:
        """The numbers other than 0, in words."""
        words = {"problems": "can't be read", "gone": "disappeared meanwhile"}
        said = [f"{count} {words.get(name, name)}" for name, count in vars(self).items() if count]
        return ", ".join(said) or "no pictures"


@dataclass(frozen=True, kw_only=True)
class ToAdd:
    """The input of one call of `add`, for the process that writes the index.

    `before` is the table before the call, `after` the one to write into; `values` maps an id to
    the values of the user's columns.
    """

    before: ImageTable
    after: ImageTable
    reranker: Reranker
    files: Sequence[GivenPicture]
    shards: Sequence[Shard]
    values: Callable[[str], Mapping[str, Any]]
    on_error: OnError
    batch_size: int

    def known(self, may_look_up: bool = False) -> KnownPictures:
        """What the index knows of its pictures; warns of those that it will have twice.

        With `may_look_up`, a few files are looked up in a large index, instead of reading it.

        Raises:
            EdjeError: it can't be read.
        """
        ids, leads = {one.id for one in self.files}, {shard.lead for shard in self.shards}
        if may_look_up and not leads and ROWS_READ * len(ids) < self.before.count():
            known: KnownPictures = LookedUpPictures(self.before, ids)
        else:
            known = KnownPictures(known_in(self.before), ids, leads)
        new = {one.path for one in self.files if one.id not in known.by_id}
        new |= {shard.path for shard in self.shards if not known.under(shard.lead)}
        if twice := known.elsewhere(new):
            log.warning(
                "%d of these pictures are in the index under other ids, such as %s as %r, and "
                "will be found twice. Remove either: index.remove(ids). Add a source with the "
                "same prefix each time.",
                len(twice),
                twice[0].path,
                twice[0].id,
            )
        return known

    def addition(
        self, to_read: Sequence[GivenPicture], known: KnownPictures, first_key: int
    ) -> "Addition":
        """The `Addition` of some of the pictures in this process, with keys from `first_key` on."""
        return Addition(
            self.before,
            self.reranker.picture_encoder,
            to_read,
            known,
            first_key,
            batch_size=self.batch_size,
            on_error=self.on_error,
            values=self.values,
        )


def added_here(work: ToAdd, show_progress_bar: bool | None = None) -> Added:
    """Add in this process: first the files, then each shard.

    Raises:
        EdjeError: as `Addition.write_into`, or an id belongs to another picture.
    """
    known = work.known(may_look_up=True)
    next_key, counts = known.next_key, Counter[str]()
    for shard in (None, *work.shards) if work.files else work.shards:
        given = work.files if shard is None else shard.pictures()
        to_read = known.to_be_read(given)
        addition = work.addition(to_read, known, next_key)
        name = "add" if shard is None else shard.lead
        addition.write_into(work.after, show_progress_bar, name)
        next_key = addition.next_key
        counts.update(addition.counts)
        counts["unchanged"] += len(given) - len(to_read)
        if shard is not None:
            work.after.delete(mended(shard, given, known))
    return Added(**counts)


def mended(shard: Shard, given: Sequence[GivenPicture], known: KnownPictures) -> list[int]:
    """Keys of the row that says that a shard couldn't be read, if it can be read now."""
    row = known.by_id.get(shard.lead)
    still = given[-1:] and given[-1].id == shard.lead
    return [] if row is None or row.path != shard.path or still else [row.key]


@dataclass(frozen=True)
class Reading:
    """The result of reading a picture: pixels to encode, a row to copy, or a problem."""

    given: GivenPicture
    kind: str  # a field of `Added`, or "left"
    known: KnownPicture | None = None  # the row of this id
    facts: Mapping[str, Any] = field(default_factory=dict)
    pixels: Tensor | None = None
    source: KnownPicture | None = None  # the row whose tokens it gets
    is_kept: bool = False  # the row stays as it is, despite the problem


class Addition:
    """The rows of the pictures to be read, made with what the index knows of them.

    `before` is the table before the addition. Pictures are taken in groups of `batch_size` in
    their order, and written in whole groups. So after a kill, the next addition makes the same
    groups of the rest, and gives the same numbers. Pictures whose content is in `leave` are read,
    then put into `left`.
    """

    def __init__(
        self,
        before: ImageTable,
        encoder: PictureEncoder,
        to_read: Sequence[GivenPicture],
        known: KnownPictures,
        first_key: int,
        *,
        batch_size: int,
        on_error: OnError,
        values: Callable[[str], Mapping[str, Any]],
        leave: Collection[str] = (),
    ):
        self.before, self.encoder, self.to_read, self.known = before, encoder, to_read, known
        self.first_key = self.next_key = first_key
        self.batch_size, self.on_error, self.values = batch_size, on_error, values
        self.leave = leave
        self.left: list[GivenPicture] = []
        self._has_warned = False
        self.counts = dict.fromkeys(vars(Added()), 0)

    def write_into(
        self, after: ImageTable, show_progress_bar: bool | None = None, name: str = "add"
    ) -> None:
        """Read, encode and write the pictures.

        Raises:
            EdjeError: the table can't be written, or with on_error="raise" a picture can't be
                read; what was encoded before it is kept.
        """
        shown = len(self.to_read) > self.batch_size
        hidden = not (shown if show_progress_bar is None else show_progress_bar)
        with tqdm(total=len(self.to_read), desc=name, unit="image", disable=hidden) as bar:
            for rows in self.pieces(bar.update):
                after.write(rows, known=not all(map(self.is_new, rows)))

    def pieces(self, progress: Callable[[int], object] = lambda count: None) -> Iterator[list[Row]]:
        """The rows, in pieces to be written together; `progress` gets numbers of pictures.

        Raises:
            EdjeError: with on_error="raise", a picture can't be read; yields earlier rows first.
        """
        rows: list[Row] = []
        written, begun = 0, time.monotonic()
        for under_way in prepared_ahead(self._read, self.to_read, self.batch_size):
            group = [one.result() for one in under_way]
            try:
                rows += self._rows(group)
            except EdjeError:
                if rows:
                    yield rows
                raise
            progress(len(group))
            late = time.monotonic() - begun > SECONDS
            # each version lists all pieces: equal ones would take space by their number's square
            enough = max(GROUPS * self.batch_size, min(written // GROWTH, MOST_ROWS))
            if rows and (late or len(rows) >= enough):
                yield rows
                written += len(rows)
                rows, begun = [], time.monotonic()
        if rows:
            yield rows

    def is_new(self, row: Row) -> bool:
        """Whether a row of this addition replaces no other row."""
        return bool(row[KEY] >= self.first_key)

    def _read(self, given: GivenPicture) -> Reading:
        """A picture's reading; a file's content belongs to the time and size noted with it."""
        known = self.known.by_id.get(given.id)
        facts: dict[str, Any] = {}
        if given.file is not None:
            facts[PATH] = written_path(given.file)
        try:
            content = _content(given, facts)
        except (FileNotFoundError, NotADirectoryError):
            return Reading(given, "gone")
        except Exception as error:  # from the disk, a broken tar, or a data set's decoder
            is_of_disk = isinstance(error, OSError) and (given.shard is None or bool(error.errno))
            return _problem(given, known, facts, error, is_of_disk)
        if known is not None and known.hash == facts[HASH]:
            is_same = (known.path, known.size) == (given.file, facts[SIZE])
            if is_same and known.modified == facts[MODIFIED]:
                return Reading(given, "unchanged")
            return Reading(given, "touched", known, facts, source=known)
        if known is None and facts[HASH] in self.leave:
            return Reading(given, "left")
        kind = "new" if known is None else "changed"
        if known is None and (moved := self.known.moved(facts[HASH])) is not None:
            return Reading(given, "moved", moved, facts, source=moved)
        if (same := self.known.with_content(facts[HASH])) is not None:
            return Reading(given, kind, known, facts, source=same)
        try:
            image = _rgb(given, content)
            facts[WIDTH], facts[HEIGHT] = image.size
            pixels = self.encoder.backbone.preprocess(image)
        except Exception as error:  # decoders raise anything
            return _problem(given, known, facts, error)
        return Reading(given, kind, known, facts, pixels)

    def _rows(self, group: Sequence[Reading]) -> list[Row]:
        """The rows of a group; its pictures go through the tower together.

        Raises:
            EdjeError: with on_error="raise", a picture can't be read.
        """
        for reading in group:
            if reading.kind == "problems" and self.on_error == "raise":
                raise EdjeError(
                    f"{reading.given.path or reading.given.id} can't be read as a picture "
                    f"({reading.facts[PROBLEM]}). Fix or remove it, or leave out on_error: "
                    "then such files are listed by index.problems()."
                )
            if reading.kind == "left":
                self.left.append(reading.given)
            else:
                self.counts[reading.kind] += 1
            if reading.is_kept and not self._has_warned:
                self._has_warned = True
                log.warning(
                    "%s can't be read now (%s); such pictures stay in the index as they were",
                    reading.given.path or reading.given.id,
                    reading.facts[PROBLEM],
                )
        pixels = [one.pixels for one in group if one.pixels is not None]
        encoded: Iterator[tuple[Tensor, np.ndarray]] = iter(())
        if pixels:
            encoded = zip(*self.encoder.encoded(torch.stack(pixels)), strict=True)
        involved = [one for reading in group for one in (reading.known, reading.source)]
        before = self.before.rows(list({one.key for one in involved if one is not None}))
        rows = []
        for one in group:
            if one.is_kept or one.kind in ("unchanged", "gone", "left"):
                continue
            row = {} if one.known is None else dict(before[one.known.key])
            if one.kind in ("new", "changed", "problems"):
                row |= {ADDED: datetime.now(UTC).replace(tzinfo=None), PROBLEM: None}
            if one.pixels is not None:
                embedding, cell = next(encoded)
                row |= {EMBEDDING: embedding.numpy(), CELL: cell.tobytes()}
            elif one.source is not None:
                row |= {name: before[one.source.key][name] for name in OF_THE_CONTENT}
            else:
                row |= dict.fromkeys(OF_THE_CONTENT)
            row |= {**self.values(one.given.id), **one.facts, ID: one.given.id}
            rows.append(row | {KEY: self._key(one)})
        return rows

    def _key(self, reading: Reading) -> int:
        if reading.known is not None:
            return reading.known.key
        self.next_key += 1
        return self.next_key - 1


def _problem(
    given: GivenPicture,
    known: KnownPicture | None,
    facts: dict[str, Any],
    error: Exception,
    is_of_disk: bool = False,
) -> Reading:
    """The reading of a picture that failed.

    If the cause is outside the file, the row of a readable picture is kept, and any other gets
    nothing by which it would be known next time.
    """
    is_kept = False
    if is_of_disk or isinstance(error, (MissingDecoder, MemoryError)):
        facts |= dict.fromkeys((SIZE, MODIFIED, HASH))
        is_kept = known is not None and known.is_readable
    facts |= {PROBLEM: brief(error)}
    return Reading(given, "problems", known, facts, is_kept=is_kept)


def _content(given: GivenPicture, facts: dict[str, Any]) -> bytes | bytearray | Image.Image:
    """A picture's bytes, or its pixels if it has none; notes its size, time and hash in `facts`."""
    if given.path is None:
        size, modified = (given.shard.size, given.shard.modified) if given.shard else (None, None)
        facts |= {SIZE: size, MODIFIED: modified}
        content = given.load()
        if isinstance(content, str | Path):
            content = Path(content).read_bytes()
        elif not isinstance(content, bytes | bytearray):
            with _reading:
                content = rgb_of(content)
        facts[HASH] = _hash(content)
        return content
    with Path(given.path).open("rb") as file:
        status = os.fstat(file.fileno())  # before reading, so that a later change is noticed later
        facts |= {SIZE: status.st_size, MODIFIED: status.st_mtime_ns}
        content = file.read()
    facts[HASH] = _hash(content)
    return content


def _hash(content: bytes | bytearray | Image.Image) -> str:
    if isinstance(content, bytes | bytearray):
        return xxhash.xxh3_128_hexdigest(content)
    return xxhash.xxh3_128_hexdigest(f"{content.size}".encode() + content.tobytes())


def _rgb(given: GivenPicture, content: bytes | bytearray | Image.Image) -> Image.Image:
    if isinstance(content, bytes | bytearray):
        return decoded(given.path or given.id, bytes(content))
    return content
