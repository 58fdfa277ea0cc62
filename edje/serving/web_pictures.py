"""Stored pictures for a browser: by id only, small, and without metadata."""

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Literal

from PIL import Image

from edje.images.decoder import decoded
from edje.index.given_pictures import read_path, valid_id
from edje.index.image_table import PATH, PROBLEM, ImageTable, Place
from edje.index.shards import ShardReader, is_shard

Size = Literal["thumb", "large"]
LONGEST_SIDE: dict[Size, int] = {"thumb": 400, "large": 1600}  # pixels
QUALITY: dict[Size, int] = {"thumb": 80, "large": 88}
KEPT_BYTES = 64 << 20  # of cached pictures


class WebPictures:
    """Makes JPEGs of an index's pictures, and caches the latest. For several threads.

    It opens the table separately, at its present version.
    """

    def __init__(self, folder: Place):
        self.folder = folder
        self._reading = threading.Lock()  # a table is for one thread at a time
        self._table: ImageTable | None = None
        self._shards = ShardReader()
        self._keeping = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._bytes = 0

    def jpeg(self, image_id: str, size: Size) -> bytes | None:
        """A picture as a JPEG without EXIF, comments or profiles; None if there is none.

        The id may be in either form of Unicode; the picture a file, or in a tar or Parquet file.

        Raises:
            EdjeError: the index can't be read.
        """
        image_id = valid_id(image_id)
        path = self._path(image_id)
        if path is None:
            return None
        try:
            status = Path(path).stat()
            key = (path, status.st_mtime_ns, status.st_size, image_id, size)
            with self._keeping:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            content = self._shards.content(path, image_id) if is_shard(path) else None
            made = _jpeg(path, content, size)
        except Exception:  # the file is gone, or its decoder raises anything
            return None
        self._keep(key, made)
        return made

    def _path(self, image_id: str) -> str | None:
        with self._reading:
            if self._table is None:
                self._table = ImageTable.open(self.folder)
            else:
                self._table.refresh()
            if self._table is None:
                return None
            row = self._table.named([image_id], [PATH, PROBLEM]).get(image_id)
        return None if row is None or row[PROBLEM] is not None else read_path(row[PATH])

    def _keep(self, key: tuple[object, ...], made: bytes) -> None:
        with self._keeping:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)


def _jpeg(path: str, content: bytes | None, size: Size) -> bytes:
    image = decoded(path, content)
    image.thumbnail((LONGEST_SIDE[size], LONGEST_SIDE[size]), Image.Resampling.LANCZOS)
    image.info = {}  # PIL would write a comment into the new file
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY[size], optimize=True)
    return file.getvalue()
