"""Whether image files are those that tokens were made from, without reading the whole files."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import xxhash

from edje.errors import EdjeError
from edje.records import ImageRecord, RetrievalSplit

BLOCKS = 8  # of a file, including its head and tail; a smaller file is read whole
BLOCK_BYTES = 4096
THREADS = 16  # keeps a cold disk busy without slowing down a warm one
_CHUNK = 256  # files per task of a thread


def images_digest(split: RetrievalSplit) -> str:
    """SHA-256 over the ids of a split's images, the sizes of their files and some of the content.

    Part of what makes stored tokens comparable: it shows other images under the same names. In a
    large uncompressed file, a change between the sampled blocks goes unnoticed.

    Raises:
        EdjeError: an image file is gone.
    """
    chunks = [split.images[start : start + _CHUNK] for start in range(0, len(split.images), _CHUNK)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(THREADS) as pool:
        for lines in pool.map(_marked, chunks):
            digest.update(lines)
    return digest.hexdigest()


def _marked(images: Sequence[ImageRecord]) -> bytes:
    lines = []
    for image in images:
        status = _status(image)
        mark = _sampled(image.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        lines.append(f"{image.image_id}\t{status.st_size}\t{mark}\n")
    return "".join(lines).encode(errors="surrogatepass")


def _status(image: ImageRecord) -> os.stat_result:
    try:
        return Path(image.path).stat()
    except OSError as error:
        raise EdjeError(f"image {image.path} is not readable ({error}).") from error


@lru_cache(maxsize=1 << 20)  # a run needs the digest of a split several times
def _sampled(path: str, size: int, modified: int, changed: int) -> str:
    """Digest of a file's blocks at those times; a fixed word for a file that can't be read."""
    content = xxhash.xxh3_128()
    try:
        with Path(path).open("rb", buffering=0) as file:
            if size <= BLOCKS * BLOCK_BYTES:
                content.update(file.readall())
            else:
                for block in range(BLOCKS):
                    place = (size - BLOCK_BYTES) * block // (BLOCKS - 1)
                    content.update(os.pread(file.fileno(), BLOCK_BYTES, place))
    except OSError:
        return "unreadable"  # left out or refused by data.bad_images when it is checked
    return content.hexdigest()
