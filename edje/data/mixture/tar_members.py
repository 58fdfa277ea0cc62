"""The content of a tar: its files by key, and where their bytes are."""

import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

IMAGES = ("jpg", "jpeg", "png", "webp")
_RECORD = 512  # bytes; a tar is a sequence of these, and ends in two that are zero
# What archivers and desktops add (`._x.jpg`, `.DS_Store`), webdataset's own notes, and names
# without an extension; webdataset ignores most of these too.
_JUNK = re.compile(
    r"(^|/)(__MACOSX|@eaDir|PaxHeaders?(\.\d+)?|GNUSparseFile\.\d+)/"
    r"|(^|/)(\.[^/]*|[^/.]*|__[^/]*__|Thumbs\.db|desktop\.ini)$"
)


class Member(NamedTuple):
    """A file in a tar, and where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass
class Sample:
    """The members of one key, by extension."""

    key: str
    fields: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> Member | None:
        """The member that holds the image."""
        return next((self.fields[ending] for ending in IMAGES if ending in self.fields), None)

    @property
    def caption(self) -> str | None:
        """The extension of the member that holds the caption."""
        return next((ending for ending in ("txt", "json") if ending in self.fields), None)


def files_of_tar(content: IO[bytes]) -> Iterator[Member]:
    """The files of a tar, without links and sparse files.

    Raises:
        tarfile.TarError: it is cut off, compressed or not a tar.
    """
    with tarfile.open(fileobj=content, mode="r:") as tar:
        end = 0
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            end = tar.offset
            # A sparse file's bytes aren't contiguous; a link has none.
            if member.isreg() and not member.issparse():
                yield Member(member.name, member.offset_data, member.size)
        if read_bytes(content, end, _RECORD) != bytes(_RECORD):  # tarfile accepts a missing end
            raise tarfile.ReadError("no end of archive")


def samples_of(members: Iterable[Member]) -> list[Sample]:
    """Members grouped by key, without junk; a repeated extension of a key starts another sample.

    So joined shards, each numbered from 0, keep all their samples.
    """
    samples: list[Sample] = []
    latest: dict[str, Sample] = {}
    for member in members:
        if _JUNK.search(member.name):
            continue
        key, _, ending = member.name.removeprefix("./").rpartition(".")
        ending = ending.lower()
        sample = latest.get(key)
        if sample is None or ending in sample.fields:
            sample = latest[key] = Sample(key)
            samples.append(sample)
        sample.fields[ending] = member
    return samples


def is_further(key: str, keys: set[str]) -> bool:
    """Whether a key is a further field of another sample, as webdataset reads it."""
    folder, slash, name = key.rpartition("/")
    stem, dot, _ = name.partition(".")
    return bool(dot) and f"{folder}{slash}{stem}" in keys


def read_bytes(content: IO[bytes], offset: int, size: int) -> bytes:
    """A part of a file, without moving its position; shorter where the file ends."""
    return os.pread(content.fileno(), size, offset)
