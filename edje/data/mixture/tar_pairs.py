"""Pairs in webdataset tars: `<key>.jpg` beside `<key>.txt` or `<key>.json`."""

import json
import multiprocessing
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO

from edje.cores import cores
from edje.data.mixture.pairs import Entry, LeftOut, Pair, PairTable, cached_table
from edje.data.mixture.tar_members import (
    Member,
    Sample,
    files_of_tar,
    is_further,
    read_bytes,
    samples_of,
)
from edje.data.sources.assembly import require_root
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import BadImages
from edje.errors import EdjeError
from edje.ranges import check_path

MANY_TARS = 16  # from this number on, starting several processes is worth it


class TarPairs:
    """Images and captions in uncompressed tars, laid out as webdataset and img2dataset write them.

    Members with a common key make a pair, wherever they are in their tar. The key is the path up
    to the last dot of the file name. With one dot in the name, this is webdataset's key. With
    more, members are either further fields of an existing sample, as in webdataset (`1.seg.png`
    beside `1.jpg`), or form a pair if they are image and caption themselves (`v1.2_0.png` and
    `v1.2_0.txt`). The caption is the `.txt`, or else `caption_key` of the `.json`.

    The tars are scanned once for the images' positions. From then on any image of any tar is one
    read. So the order of training can be a function of its seed alone; that of a shuffle buffer
    over a stream isn't once it has been interrupted.

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
        check_path("root", root)
        self.root = Path(root)
        self.shards = shards
        self.caption_key = caption_key
        self.passes = passes
        self.held_back = None  # images in tars are not files that a cached set could name

    def table(self, name: str, cache_dir: Path, bad_images: BadImages) -> PairTable:
        """All its pairs, a block for each tar.

        Raises:
            EdjeError: there are no tars, one is cut off or not a tar, or members lack captions.
        """
        dataset = f"data.sources.{name}"
        require_root(self.root, dataset, key=dataset)
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
        processes = min(cores(), len(tars))
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            yield from pool.map(read, tars)


def entries_of_tar(root: Path, caption_key: str, path: Path) -> list[Entry]:
    """The content of one tar, in the order in which its keys first occur.

    Raises:
        EdjeError: it is cut off, compressed or not a tar.
    """
    file = str(path.relative_to(root))
    try:
        with path.open("rb") as content:
            samples = samples_of(files_of_tar(content))
            own = {sample.key for sample in samples}
            return [
                entry
                for sample in samples
                for entry in _entries(file, sample, content, caption_key)
                if isinstance(entry, Pair) or not is_further(sample.key, own)
            ]
    except (OSError, tarfile.TarError) as error:
        raise EdjeError(
            f"{path} is cut off, compressed or not a tar ({error}). Fetch it again, unpack it to a "
            "plain .tar, or move it away."
        ) from error


def _entries(file: str, sample: Sample, content: IO[bytes], caption_key: str) -> Iterator[Entry]:
    """The pair that a sample makes, and what is wrong with it."""
    image, ending = sample.image, sample.caption
    name = (image or next(iter(sample.fields.values()))).name
    if image is None:
        yield LeftOut(f"{name} in {file}: no image of the key {sample.key} in this tar")
        return
    if ending is None:
        yield LeftOut(f"{name} in {file}: no caption ({sample.key}.txt or .json) in this tar")
        return
    said = ImageCaptions(image.name)
    member = sample.fields[ending]
    try:
        said.add(_caption(member, content, caption_key), f"{member.name} in {file}")
    except ValueError as error:
        yield LeftOut(f"{image.name} in {file}: no caption, {member.name} is unreadable ({error})")
        return
    if said.texts:
        texts = tuple(text.strip() for text in said.texts)
        yield Pair(file, texts, image.name, image.offset, image.size)
        yield from map(LeftOut, said.bad)
    else:
        told = said.bad[0] if said.bad else f"none in {member.name}"
        yield LeftOut(f"{image.name} in {file}: no caption ({told})")


def _caption(member: Member, content: IO[bytes], caption_key: str) -> object:
    """A member's content: a text or, from a `.json`, the value of the key.

    Raises:
        ValueError: it is not UTF-8, not JSON, or lacks the key.
    """
    stored = read_bytes(content, member.offset, member.size)
    if member.name.lower().endswith(".txt"):
        return stored.decode("utf-8-sig")
    fields = json.loads(stored)
    if not isinstance(fields, dict) or caption_key not in fields:
        raise ValueError(f"no {caption_key!r} in it")
    return fields[caption_key]
