"""Files of many pictures: tars in WebDataset's form, and Parquet with a column of images."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edje.data.mixture.tar_members import files_of_tar, read_bytes
from edje.errors import EdjeError
from edje.images.decoder import brief
from edje.index.given_pictures import ENDINGS, IDS, IMAGE, GivenPicture, ShardFile, valid_id

TAR, PARQUET = ".tar", ".parquet"
KEPT_OPEN = 4  # shards that pictures are read from by their ids


@dataclass(frozen=True)
class Shard:
    """A file of many pictures, not opened yet.

    Their ids begin with `lead` and a slash, as if it were a folder of its name without extension.
    The rest is a picture's path in a tar, or its id or row number in a Parquet file.
    """

    lead: str
    path: str

    def pictures(self) -> list[GivenPicture]:
        """Its pictures in its order; if it can't be read to its end, the last one says so.

        Raises:
            EdjeError: it is a Parquet file without a column of images, or two have one id.
        """
        file = ShardFile(self.path, 0, 0)
        opened: TarPictures | ParquetPictures | Unreadable
        try:
            file = _file(self.path)
            opened = _opened(file)
        except (OSError, pa.ArrowException) as error:
            opened = Unreadable(brief(error))
        names = [f"{self.lead}/{valid_id(name)}" for name in opened.names]
        for one, other in pairwise(sorted(names)):
            if one == other:
                raise EdjeError(
                    f"{self.path}: two pictures have the id {one!r}. Give each its own."
                )
        found = [
            GivenPicture(name, data=opened, row=row, shard=file) for row, name in enumerate(names)
        ]
        if opened.problem is not None:
            problem = Unreadable(opened.problem)
            found.append(GivenPicture(self.lead, data=problem, row=0, shard=file))
        return found


class ShardReader:
    """Reads pictures of shards by their ids; keeps the latest shards open. For several threads."""

    def __init__(self) -> None:
        self._opening = Lock()  # a shard that several threads need is opened once
        self._rows = lru_cache(KEPT_OPEN)(_rows)

    def content(self, path: str, image_id: str) -> bytes:
        """The encoded picture of an id that begins with the shard's lead, whatever that is.

        Raises:
            OSError: the shard has no such picture, or can't be read.
            EdjeError, pyarrow.ArrowException: as `ParquetPictures`.
        """
        with self._opening:
            opened, rows = self._rows(_file(path))
        parts, name = image_id.split("/"), valid_id(Path(path).stem)
        ends = sorted(range(1, len(parts)), key=lambda at: parts[at - 1] != name)  # the usual lead
        for at in ends:
            if (row := rows.get("/".join(parts[at:]))) is not None:
                content: bytes = opened[row][IMAGE]
                return content
        raise OSError(f"{path} has no picture {image_id!r}")


def is_shard(path: str) -> bool:
    """Whether a file is taken for one of many pictures, by its name."""
    return path.endswith((TAR, PARQUET))


def with_shards(given: Sequence[GivenPicture]) -> tuple[list[GivenPicture], list[Shard]]:
    """The pictures, and separately those that are files of many pictures.

    Raises:
        EdjeError: ids of two of them would begin with the same name.
    """
    files: list[GivenPicture] = []
    shards: list[Shard] = []
    for one in given:
        if one.path is not None and is_shard(one.path):
            shards.append(Shard(one.id.removesuffix(TAR).removesuffix(PARQUET), one.path))
        else:
            files.append(one)
    shards.sort(key=lambda shard: shard.lead)
    for shard, other in pairwise(shards):
        if shard.lead == other.lead:
            raise EdjeError(
                f"the ids of {shard.path} and {other.path} would both begin with {shard.lead}/. "
                "Rename one, or add them in two calls with a prefix each."
            )
    leads = {shard.lead for shard in shards}
    for one in files if leads else ():
        if inside := leads & {str(parent) for parent in PurePosixPath(one.id).parents}:
            raise EdjeError(
                f"the ids of {one.path or 'a picture'} and of a file of many both begin with "
                f"{min(inside)}/. Add them in two calls with a prefix each."
            )
    return files, shards


class Unreadable:
    """Takes the place of pictures that can't be read, and says why."""

    def __init__(self, problem: str):
        self.problem: str | None = problem
        self.names: list[str] = []

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Nothing.

        Raises:
            OSError: always.
        """
        raise OSError(self.problem)


class TarPictures:
    """Pictures of a tar by their row, read from their positions."""

    def __init__(self, file: ShardFile):
        self.file = file
        found: dict[str, tuple[int, int]] = {}
        self.problem: str | None = None
        try:
            with Path(file.path).open("rb") as content:
                for member in files_of_tar(content):
                    if _is_picture(name := str(PurePosixPath(member.name))):
                        found[name] = (member.offset, member.size)  # the last one wins
        except tarfile.TarError as error:
            self.problem = f"the tar is broken after {len(found)} pictures: {brief(error)}"
        self.names = list(found)
        self._places = np.array(list(found.values()), np.int64).reshape(-1, 2)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Bytes of a picture.

        Raises:
            OSError: the tar can't be read, or has changed since it was listed.
        """
        start, size = self._places[row].tolist()
        with Path(self.file.path).open("rb") as opened:
            _check_same(self.file, os.fstat(opened.fileno()))
            return {IMAGE: read_bytes(opened, start, size)}


class ParquetPictures:
    """Pictures of a Parquet file by their row; keeps one group of rows in memory.

    Raises:
        EdjeError: it has no column of images.
        OSError, pyarrow.ArrowException: it can't be read.
    """

    problem: str | None = None

    def __init__(self, file: ShardFile):
        self.file = file
        with pq.ParquetFile(file.path) as opened:
            columns, facts = opened.schema_arrow, opened.metadata
            if IMAGE not in columns.names or not _holds_bytes(columns.field(IMAGE).type):
                raise EdjeError(
                    f"{file.path} has the columns {', '.join(columns.names)}; expected one "
                    f"named {IMAGE!r}, of bytes or as data sets have it. Rename or convert it."
                )
            name = next((name for name in IDS if name in columns.names), None)
            ids = range(facts.num_rows) if name is None else opened.read([name])[name].to_pylist()
            self.names = [str(one) for one in ids]
            counts = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]
        self._ends = np.cumsum(counts)
        self._reading = Lock()
        self._group: tuple[int, list[Any]] = (-1, [])

    def __reduce__(self) -> tuple[Any, ...]:  # without the rows in memory
        return ParquetPictures, (self.file,)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Bytes of a picture.

        Raises:
            OSError: the file can't be read, has none, or has changed since it was listed.
        """
        group = int(np.searchsorted(self._ends, row, "right"))
        with self._reading:
            if self._group[0] != group:
                _check_same(self.file, Path(self.file.path).stat())
                with pq.ParquetFile(self.file.path) as opened:
                    held = opened.read_row_group(group, [IMAGE])[IMAGE].to_pylist()
                self._group = (group, held)
            found = self._group[1][row - int(self._ends[group])]  # counted from its end
        content = found.get("bytes") if isinstance(found, dict) else found
        if content is None:
            raise OSError("the row has no bytes of a picture")
        return {IMAGE: content}


def _file(path: str) -> ShardFile:
    status = Path(path).stat()
    return ShardFile(path, status.st_size, status.st_mtime_ns)


def _opened(file: ShardFile) -> TarPictures | ParquetPictures:
    return (TarPictures if file.path.endswith(TAR) else ParquetPictures)(file)


def _rows(file: ShardFile) -> tuple[TarPictures | ParquetPictures, dict[str, int]]:
    """An opened shard, and the row of each picture by the end of its id."""
    opened = _opened(file)
    return opened, {valid_id(name): row for row, name in enumerate(opened.names)}


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in path.parts)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind.fields]
    return kind in (pa.binary(), pa.large_binary())


def _check_same(file: ShardFile, now: os.stat_result) -> None:
    if (now.st_size, now.st_mtime_ns) != (file.size, file.modified):
        raise OSError("the file that contains it changed meanwhile")
