"""Adding pictures to an index: what is new or changed is read by threads, encoded and written."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from edje.images.decoder import brief, decoded
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
from edje.index.known_pictures import KnownPicture, KnownPictures
from edje.inference.picture_encoder import PictureEncoder

MOST_THREADS = 16  # that read and decode pictures
GROUPS = 8  # of pictures through the tower, that are written together …
SECONDS = 20.0  # … or fewer, where they take so long
OF_THE_CONTENT = (EMBEDDING, CELL, WIDTH, HEIGHT)  # columns that files of one content share
_reading = threading.Lock()  # PIL reads an opened file when it is first used: in one thread
OnError = Literal["record", "raise"]


@dataclass(frozen=True)
class Added:
    """What an addition did, in numbers of pictures.

    `moved` keep the tokens that they had under another id, `touched` differ in nothing but time or
    place, `gone` went while it ran, and `removed` were in the index and no more in the folder.
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
        """The numbers that aren't 0, in words."""
        words = {"problems": "can't be read", "gone": "went meanwhile"}
        said = [f"{count} {words.get(name, name)}" for name, count in vars(self).items() if count]
        return ", ".join(said) or "no pictures"


@dataclass(frozen=True)
class Reading:
    """What reading a picture gave: pixels to encode, or a row to be copied, or a problem."""

    given: GivenPicture
    kind: str  # of `Added`
    known: KnownPicture | None = None  # of this id
    facts: Mapping[str, Any] = field(default_factory=dict)
    pixels: Tensor | None = None
    source: KnownPicture | None = None  # whose tokens it has


class Addition:
    """One call of `add`, in the hands of the index's writer.

    `before` is the table as it was, `after` the one to write into. Pictures are taken in groups of
    `batch_size` in the order of their ids, and written by whole groups: after a kill the next
    addition makes the same groups of what is left, so that the same numbers come out.
    """

    def __init__(
        self,
        before: ImageTable,
        after: ImageTable,
        encoder: PictureEncoder,
        given: Sequence[GivenPicture],
        *,
        batch_size: int,
        on_error: OnError,
        values: Callable[[str], Mapping[str, Any]],
    ):
        self.before, self.after, self.encoder = before, after, encoder
        self.batch_size, self.on_error, self.values = batch_size, on_error, values
        self.known = KnownPictures(before, {one.id for one in given})
        self.next_key = self.known.next_key
        self.counts = dict.fromkeys(vars(Added()), 0)
        self.to_read = [one for one in given if self._is_to_be_read(one)]

    def run(self, show_progress_bar: bool | None = None) -> Added:
        """Read, encode and write what is to be.

        Raises:
            EdjeError: the table can't be written, or with on_error="raise" a picture can't be
                read; what was encoded before it is kept.
        """
        shown = len(self.to_read) > self.batch_size
        hidden = not (shown if show_progress_bar is None else show_progress_bar)
        rows: list[Row] = []
        written = time.monotonic()
        with tqdm(total=len(self.to_read), desc="add", unit="image", disable=hidden) as bar:
            for group in self._groups():
                try:
                    rows += self._rows(group)
                except EdjeError:
                    self._write(rows)
                    raise
                bar.update(len(group))
                late = time.monotonic() - written > SECONDS
                if late or len(rows) >= GROUPS * self.batch_size:
                    self._write(rows)
                    rows, written = [], time.monotonic()
        self._write(rows)
        return Added(**self.counts)

    def _is_to_be_read(self, given: GivenPicture) -> bool:
        """Whether it may be new or changed, by its size and time.

        Raises:
            EdjeError: another picture has its id.
        """
        known = self.known.by_id.get(given.id)
        if known is None or (given.path is None and known.path is None):
            return True
        if is_another(given, known):
            raise EdjeError(
                f"{given.path or 'a picture without a file'} would have the id {given.id!r}, which "
                f"{known.path or 'one without a file'} has. Give a prefix: "
                'index.add(source, prefix="…").'
            )
        assert given.path is not None
        try:
            status = Path(given.path).stat()
        except OSError:
            return True
        same = (known.path, known.size, known.modified)
        if same != (given.path, status.st_size, status.st_mtime_ns):
            return True
        self.counts["unchanged"] += 1
        return False

    def _groups(self) -> Iterator[list[Reading]]:
        """What was read, by groups, the next one in the making while one is used."""
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)), max(len(self.to_read), 1))
        waiting: list[Future[Reading]] = []
        started = 0
        with ThreadPoolExecutor(threads) as pool:
            try:
                for first in range(0, len(self.to_read), self.batch_size):
                    ahead = self.to_read[started : first + 2 * self.batch_size]
                    waiting += [pool.submit(self._read, one) for one in ahead]
                    started += len(ahead)
                    group, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
                    yield [one.result() for one in group]
            finally:
                for one in waiting:
                    one.cancel()

    def _read(self, given: GivenPicture) -> Reading:
        """What a picture is; what is read of a file belongs to the time and size noted with it."""
        known = self.known.by_id.get(given.id)
        facts: dict[str, Any] = {}
        if given.path is not None:
            facts[PATH] = written_path(given.path)
        try:
            content = _content(given, facts)
        except FileNotFoundError:
            return Reading(given, "gone")
        except Exception as error:  # of the disk, or of a data set's decoder
            return Reading(given, "problems", known, {**facts, PROBLEM: brief(error)})
        if known is not None and known.hash == facts[HASH]:
            is_same = (known.path, known.size) == (given.path, facts[SIZE])
            if is_same and known.modified == facts[MODIFIED]:
                return Reading(given, "unchanged")
            return Reading(given, "touched", known, facts, source=known)
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
            return Reading(given, "problems", known, {**facts, PROBLEM: brief(error)})
        return Reading(given, kind, known, facts, pixels)

    def _rows(self, group: Sequence[Reading]) -> list[Row]:
        """The rows of a group, pictures through the tower together.

        Raises:
            EdjeError: with on_error="raise", a picture can't be read.
        """
        for reading in group:
            if reading.kind == "problems" and self.on_error == "raise":
                raise EdjeError(
                    f"{reading.given.path or reading.given.id} can't be read as a picture "
                    f"({reading.facts[PROBLEM]}). Mend or remove it, or leave on_error as it is: "
                    "then such files are listed by index.problems()."
                )
            self.counts[reading.kind] += 1
        pixels = [one.pixels for one in group if one.pixels is not None]
        encoded: Iterator[tuple[Tensor, np.ndarray]] = iter(())
        if pixels:
            encoded = zip(*self.encoder.encoded(torch.stack(pixels)), strict=True)
        involved = [one for reading in group for one in (reading.known, reading.source)]
        before = self.before.rows(list({one.key for one in involved if one is not None}))
        rows = []
        for one in group:
            if one.kind in ("unchanged", "gone"):
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

    def _write(self, rows: Sequence[Row]) -> None:
        """Write rows in one step."""
        if rows:
            self.after.write(rows, known=any(row[KEY] < self.known.next_key for row in rows))


def is_another(given: GivenPicture, known: KnownPicture) -> bool:
    """Whether the row of a picture's id is of another picture that is still there."""
    if given.path is None or known.path is None:
        return given.path != known.path
    if given.path == known.path:
        return False
    try:
        return not Path(given.path).samefile(known.path)
    except OSError:
        return False


def _content(given: GivenPicture, facts: dict[str, Any]) -> bytes | bytearray | Image.Image:
    """A picture's bytes, or its pixels where it has none; its size, time and hash are noted."""
    if given.path is None:
        content = given.load()
        if isinstance(content, str | Path):
            content = Path(content).read_bytes()
        elif not isinstance(content, bytes | bytearray):
            with _reading:
                content = rgb_of(content)
        facts |= {PATH: None, SIZE: None, MODIFIED: None, HASH: _hash(content)}
        return content
    with Path(given.path).open("rb") as file:
        status = os.fstat(file.fileno())  # before it is read: what changes later is noticed later
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
