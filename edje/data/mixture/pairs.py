"""Millions of image-caption pairs: a table on disk that all ranks and workers map.

The content of an annotation file or tar is read once, into Arrow batches. From then on a pair is
a row of a memory-mapped file, so that neither ranks nor loader workers hold lists of captions.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from ftfy.fixes import fix_surrogates

from edje.data.sources.source import BadImages, Source
from edje.durable import new_file, replace_file, writing_to
from edje.errors import EdjeError
from edje.images.pictures import is_unicode
from edje.tokens.lock import writer_lock

log = logging.getLogger(__name__)

VERSION = 3  # of the tables' content and of how annotations are read
BLOCK_ROWS = 10_000
LISTED = 1_000  # entries left out that are listed one by one
_SCHEMA = pa.schema(
    [
        ("file", pa.string()),  # relative to the root
        ("member", pa.string()),  # its name if the file is a tar, else null
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("captions", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Pair:
    """One image with a caption, or with several, of which each visit draws one.

    The image is a file of its own, or `size` bytes of a tar from `offset`, its `member`.
    """

    file: str
    captions: tuple[str, ...]
    member: str | None = None
    offset: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"{self.member} in {self.file}" if self.member else self.file


@dataclass(frozen=True)
class LeftOut:
    """An entry that can't become a pair, and why; `missing` is its image if that has no file."""

    problem: str
    missing: str | None = None


Entry = Pair | LeftOut


class PairTable:
    """The pairs of one source, in blocks of about ten thousand that are together on disk."""

    def __init__(self, path: Path):
        self.path = path
        self._file: pa.ipc.RecordBatchFileReader | None = None
        self.blocks = [
            self._batch(number).num_rows for number in range(self._reader.num_record_batches)
        ]
        self._starts = np.cumsum([0, *self.blocks])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Pair:
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        (values,) = self._batch(block).slice(row - int(self._starts[block]), 1).to_pylist()
        return Pair(**(values | {"captions": tuple(values["captions"])}))

    @property
    def digest(self) -> str:
        """SHA-256 of all its pairs; a copy of their files elsewhere gives the same."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def files(self, block: int) -> list[str]:
        """The files of a block's images, row by row; empty if they are members of a tar."""
        batch = self._batch(block)
        return batch["file"].to_pylist() if batch["member"].null_count else []

    @property
    def _reader(self) -> pa.ipc.RecordBatchFileReader:
        if self._file is None:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.path)))
        return self._file

    def _batch(self, number: int) -> pa.RecordBatch:
        return self._reader.get_batch(number)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_file": None}  # another process maps the file itself


class PairSource(Protocol):
    """A source of some of a mixture's pairs.

    `passes` is how often one pass over the mixture visits each pair: 2 is twice, 0.5 half of them.
    `held_back` is a cached set of the same image files on which a later stage may choose.
    """

    root: Path
    passes: float
    held_back: Source | None

    def table(self, name: str, cache_dir: Path, bad_images: BadImages) -> PairTable:
        """All its pairs; see `cached_table`.

        Raises:
            EdjeError: annotations, tars or images are missing or broken.
        """
        ...


def cached_table(
    name: str,
    facts: Iterable[str],
    blocks: Callable[[], Iterable[Iterable[Entry]]],
    cache_dir: Path,
    bad_images: BadImages,
    has_file: Callable[[str], bool] = lambda image: False,
) -> PairTable:
    """The table of a source, from the cache if its facts match, otherwise read from `blocks`.

    Entries that can't become pairs are an error or, with `skip`, left out and counted. If images
    that were missing have a file now, the blocks are read again, into another table: a run may be
    reading this one. A second process that needs a table waits for the first.

    Raises:
        EdjeError: an entry is bad and the policy is `error`; no pair is left; the cache can't be
            written.
    """
    facts = [f"version {VERSION}", *facts]
    folder = cache_dir / f"{name}-pairs"
    while True:
        content = "\n".join(facts).encode(errors="surrogatepass")
        digest = hashlib.sha256(content).hexdigest()[:12]
        path, notes = folder / f"{digest}.arrow", folder / f"{digest}.json"  # the notes come last
        if not notes.is_file():
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
            with writer_lock(folder):
                if not notes.is_file():
                    log.info("%s: reading its list of pairs", name)
                    found = _Sound(name, bad_images)
                    with writing_to(folder), new_file(path) as temporary:
                        found.write(blocks(), temporary)
                    replace_file(notes, json.dumps(found.notes, indent=1).encode())
        noted = json.loads(notes.read_text())
        there = [image for image in noted["missing"] if has_file(image)]
        if not there:
            break
        log.info("%s: %d images that were missing are there now", name, len(there))
        facts += there
    if noted["left_out"]:
        left_out = f"{noted['left_out']:,} entries left out, such as: {noted['problems'][0]}"
        if bad_images == "error":
            raise EdjeError(
                f"data.sources.{name}: {left_out}. Fix them and delete {notes}, or go on without "
                "them with data.bad_images=skip."
            )
        log.warning("%s: %s (more are listed in %s)", name, left_out, notes)
    return PairTable(path)


class _Sound:
    """Writes the sound entries of a source, and notes what is wrong with the others."""

    def __init__(self, name: str, bad_images: BadImages):
        self.name = name
        self.bad_images = bad_images
        self.left_out = 0
        self.problems: list[str] = []  # of the first of these
        self.missing: list[str] = []  # the first images without a file

    @property
    def notes(self) -> dict[str, int | list[str]]:
        """What was left out."""
        return {"left_out": self.left_out, "problems": self.problems, "missing": self.missing}

    def write(self, blocks: Iterable[Iterable[Entry]], path: Path) -> None:
        """Write a batch for each block; none for a block without sound entries."""
        rows = 0
        with pa.ipc.new_file(str(path), _SCHEMA) as file:
            for entries in blocks:
                pairs = [
                    vars(pair) | {"captions": [fix_surrogates(text) for text in pair.captions]}
                    for pair in self._pairs(entries)
                ]
                columns = [
                    pa.array([pair[key.name] for pair in pairs], key.type) for key in _SCHEMA
                ]
                if pairs:
                    file.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                rows += len(pairs)
        if not rows:
            raise EdjeError(
                f"data.sources.{self.name}: no pairs found"
                + (f" (the first problem: {self.problems[0]})" if self.problems else "")
                + f". Check its root and files, or leave it out: data.sources.{self.name}=null."
            )

    def _pairs(self, entries: Iterable[Entry]) -> Iterator[Pair]:
        for entry in entries:
            if isinstance(entry, Pair) and not is_unicode(str(entry)):
                entry = LeftOut(f"the name of image {str(entry)!a} is not valid UTF-8")
            if isinstance(entry, Pair):
                yield entry
            elif self.bad_images == "error":
                raise EdjeError(
                    f"data.sources.{self.name}: {entry.problem}. Fix it, or leave such entries "
                    "out with data.bad_images=skip."
                )
            else:
                self.left_out += 1
                told = entry.problem.encode(errors="backslashreplace").decode()  # can be logged
                self.problems += [told] if self.left_out <= LISTED else []
                if entry.missing is not None and len(self.missing) < LISTED:
                    self.missing.append(entry.missing)
