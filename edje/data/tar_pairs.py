"""Pairs in webdataset tars: `<key>.jpg` beside `<key>.txt` or `<key>.json`."""

import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO

from edje.data.assembly import require_root
from edje.data.pairs import Entry, LeftOut, Pair, PairTable, cached_table
from edje.data.source import BadImages
from edje.errors import EdjeError

IMAGES = ("jpg", "jpeg", "png", "webp")
MANY_TARS = 16  # from here on worth the start of several processes
_RECORD = 512  # bytes; a tar is a row of them, and ends in two that are zero


class TarPairs:
    """Images and captions in uncompressed tars, laid out as webdataset and img2dataset write them.

    Members with a common key (the path up to the first dot of its file name) lie together. The
    caption is the `.txt`, or else `caption_key` of the `.json`. The tars are looked through once,
    for where each image lies; from then on any image of any tar is one read. So the order of
    training can be a function of its seed alone, which no shuffle buffer over a stream is once it
    has been interrupted.

    Args:
        root: the folder of the tars.
        shards: pattern of their names.
        caption_key: where the `.json` holds the caption, a text or a list of texts.
        passes: how often a pass over the mixture visits each pair.
    """

    def __init__(
        self,
        *,
        root: str,
        shards: str = "*.tar",
        caption_key: str = "caption",
        passes: float = 1.0,
    ):
        self.root = Path(root)
        self.shards = shards
        self.caption_key = caption_key
        self.passes = passes

    def table(self, name: str, cache_dir: Path, bad_images: BadImages) -> PairTable:
        """All its pairs, a block for each tar.

        Raises:
            EdjeError: there are no tars, one is cut off or no tar, or members lack their caption.
        """
        dataset = f"data.sources.{name}"
        require_root(self.root, dataset)
        tars = sorted(self.root.glob(self.shards))
        if not tars:
            raise EdjeError(
                f"{dataset}: no tars {self.shards} in {self.root}. Set {dataset}.root and "
                f"{dataset}.shards, or leave it out: {dataset}=null."
            )
        facts = [str(self.root.resolve()), self.caption_key]
        for tar in tars:
            status = tar.stat()
            facts.append(f"{tar.relative_to(self.root)} {status.st_size} {status.st_mtime_ns}")
        return cached_table(name, facts, lambda: self._blocks(tars), cache_dir, bad_images)

    def _blocks(self, tars: list[Path]) -> Iterator[list[Entry]]:
        read = partial(entries_of_tar, self.root, self.caption_key)
        if len(tars) < MANY_TARS:
            yield from map(read, tars)
            return
        processes = min(os.cpu_count() or 1, len(tars))
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            yield from pool.map(read, tars)


def entries_of_tar(root: Path, caption_key: str, path: Path) -> list[Entry]:
    """What one tar holds, in its order.

    Raises:
        EdjeError: it is cut off, compressed or no tar at all.
    """
    file = str(path.relative_to(root))
    entries: list[Entry] = []
    try:
        with path.open("rb") as content, tarfile.open(fileobj=content, mode="r:") as tar:
            key, end = "", 0
            group: dict[str, tarfile.TarInfo] = {}
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
                end = member.offset_data + -(-member.size // _RECORD) * _RECORD
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if f"{folder}/{stem}" != key:
                    entries += _entry(file, group, content, caption_key)
                    key, group = f"{folder}/{stem}", {}
                group[extension.lower()] = member
            entries += _entry(file, group, content, caption_key)
            if _read(content, end, _RECORD) != bytes(_RECORD):  # tarfile takes it for the end
                raise tarfile.ReadError("no end of archive")
    except (OSError, tarfile.TarError) as error:
        raise EdjeError(
            f"{path} is cut off, compressed or no tar ({error}). Fetch it again, unpack it to a "
            "plain .tar, or move it away."
        ) from error
    return entries


def _entry(
    file: str, group: dict[str, tarfile.TarInfo], content: IO[bytes], caption_key: str
) -> Iterator[Entry]:
    """The pair that members of a common key make; nothing for an empty group."""
    if not group:
        return
    image = next((group[extension] for extension in IMAGES if extension in group), None)
    name = (image or next(iter(group.values()))).name
    if image is None:
        yield LeftOut(f"{name} in {file}: no image of that key beside it")
        return
    captions = _captions(group, content, caption_key)
    if captions:
        yield Pair(file, captions, image.name, image.offset_data, image.size)
    else:
        yield LeftOut(f"{name} in {file}: no caption in a .txt or .json of that key beside it")


def _captions(
    group: dict[str, tarfile.TarInfo], content: IO[bytes], caption_key: str
) -> tuple[str, ...]:
    """The captions of a sample that are not blank; none where they can't be read."""
    texts: object = None
    if (member := group.get("txt")) is not None:
        texts = _read(content, member.offset_data, member.size).decode(errors="replace")
    elif (member := group.get("json")) is not None:
        try:
            fields = json.loads(_read(content, member.offset_data, member.size))
        except ValueError:
            return ()
        texts = fields.get(caption_key) if isinstance(fields, dict) else None
    listed = texts if isinstance(texts, list) else [texts]
    return tuple(text.strip() for text in listed if isinstance(text, str) and text.strip())


def _read(content: IO[bytes], offset: int, size: int) -> bytes:
    return os.pread(content.fileno(), size, offset)
