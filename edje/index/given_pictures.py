"""What a user adds to an index (folder, paths, pictures or data set), as pictures with ids."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from edje.errors import EdjeError
from edje.images.pictures import Picture, is_unicode
from edje.ranges import check_path

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".ico", ".pcx", ".sgi"),
)  # taken from folders; a file named by itself may have any extension
IDS = ("image_id", "id", "filename", "file_name")  # columns of a data set, best first
IMAGE = "image"
URI = "file://"
GONE = (errno.ENOENT, errno.ENOTDIR)
NOWHERE = (*GONE, errno.ELOOP, errno.ENAMETOOLONG)  # errors of links that lead to nothing
EXPECTED = (
    "a folder, a path, a list of paths, a mapping of ids to pictures (PIL images, bytes, "
    "arrays), or a datasets.Dataset with a column of images"
)


@dataclass(frozen=True)
class ShardFile:
    """A file of many pictures as it was when listed; `modified` is in nanoseconds."""

    path: str
    size: int
    modified: int


@dataclass(frozen=True)
class GivenPicture:
    """A picture with its id: a file by its absolute path, or something that `load` reads."""

    id: str
    path: str | None = None
    data: Any = None  # a picture, or a data set whose `row` it is
    row: int | None = None
    shard: ShardFile | None = None  # the file that holds it with others

    @property
    def file(self) -> str | None:
        """The file that it is or is in; None if there is none."""
        return self.path if self.shard is None else self.shard.path

    def load(self) -> Picture:
        """The picture, if it is no file by itself."""
        found = self.data if self.row is None else self.data[self.row][IMAGE]
        if isinstance(found, Mapping):  # from a data set, not decoded
            found = found["path"] if found["bytes"] is None else found["bytes"]
        return cast(Picture, found)


def given_pictures(source: Any, prefix: str | None = None) -> list[GivenPicture]:
    """All pictures of a source in the order of their ids; nothing is read yet.

    Raises:
        EdjeError: a path doesn't exist, a folder can't be listed, two pictures have one id, or
            the source is of an unsupported kind, or the prefix is no text.
    """
    if not isinstance(prefix, str | None):
        raise EdjeError(f"prefix={prefix!r}: expected a text, which is put before the ids.")
    found = list(_of(source))
    if prefix is not None and prefix.strip("/"):
        lead = valid_id(prefix.strip("/"))
        found = [replace(one, id=f"{lead}/{one.id}") for one in found]
    found.sort(key=lambda one: one.id)
    for one, other in pairwise(found):
        if one.id == other.id and (one.path is None or one.path != other.path):
            fix = "Add their folder, or them in two calls with a prefix each."
            if one.path and other.path and valid_id(one.path) == valid_id(other.path):
                fix = "Their names are equal as ids, which are Unicode in NFC: rename one of them."
            raise EdjeError(
                f"{one.path or 'one picture'} and {other.path or 'another'} would both have the id "
                f"{one.id!r}. {fix}"
            )
    return list({one.id: one for one in found}.values())


def files_under(folder: Path) -> Iterator[Path]:
    """Picture files in a folder and its subfolders, without hidden files and linked folders.

    A file whose kind the disk doesn't tell is one of them; reading it gives the reason.

    Raises:
        EdjeError: a folder can't be listed.
    """

    def refuse(error: OSError) -> None:
        raise EdjeError(f"the folder {error.filename} can't be listed: {error.strerror}.")

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in ENDINGS and _may_be_file(path):
                yield path


def is_gone(path: str) -> bool:
    """Whether a path has nothing any more; no if the disk fails or access is denied."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in GONE
    return False


def mode_of(path: Path, given: str | Path) -> int:
    """The kind and permissions of what a path leads to, as `st_mode`; 0 if it leads to nothing.

    Raises:
        EdjeError: the disk fails or access is denied.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in NOWHERE:
            return 0
        raise EdjeError(
            f"{given} can't be read: {error.strerror}. Check its disk and permissions."
        ) from error
    except ValueError:  # no file can have this name
        return 0


def absolute(path: str | Path) -> Path:
    """The absolute path, with links resolved in all but its last name.

    Raises:
        EdjeError: it is no path, or empty.
    """
    check_path("path", path)
    with suppress(RuntimeError):  # a name with ~ that is no user's home
        path = Path(path).expanduser()
    path = Path(path)
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def valid_id(name: str) -> str:
    """A name as an id: NFC, with bytes that aren't valid Unicode as escapes.

    Raises:
        EdjeError: it is no text, or has characters that are neither Unicode nor such bytes.
    """
    try:
        text = os.fsencode(name).decode("utf-8", "backslashreplace")
    except (TypeError, UnicodeEncodeError) as error:
        raise EdjeError(f"{name!r} can't be an id of a picture: expected a text.") from error
    return unicodedata.normalize("NFC", text)


def written_path(path: str) -> str:
    """A path as stored in the table: unchanged, or a file:// URL if it isn't all Unicode."""
    return path if is_unicode(path) else Path(path).as_uri()


def read_path(written: str | None) -> str | None:
    """The original path of a `written_path`."""
    if written is None or not written.startswith(URI):
        return written
    return os.fsdecode(unquote_to_bytes(written.removeprefix(URI)))


def _of(source: Any) -> Iterator[GivenPicture]:
    if isinstance(source, str | Path):
        path = absolute(source)
        mode = mode_of(path, source)
        if stat.S_ISDIR(mode):
            for file in files_under(path):
                yield GivenPicture(valid_id(file.relative_to(path).as_posix()), str(file))
        elif stat.S_ISREG(mode):
            yield GivenPicture(valid_id(path.name), str(path))
        elif "*" in path.name and (found := sorted(path.parent.glob(path.name))):
            yield from _of(found)
        else:
            raise EdjeError(f"{source}: there is no file or folder to add. Check the spelling.")
    elif isinstance(source, Mapping):
        for name, picture in source.items():
            if not isinstance(name, str) or not isinstance(picture, Picture):
                raise EdjeError(
                    f"got {name!r}: {type(picture).__name__}; expected ids with pictures."
                )
            if isinstance(picture, str | Path):
                path = absolute(picture)
                if not mode_of(path, picture):
                    raise EdjeError(f"{name!r}: there is no file {picture}. Check the spelling.")
                yield GivenPicture(valid_id(name), str(path))
            else:
                yield GivenPicture(valid_id(name), data=picture)
    elif hasattr(source, "column_names") and hasattr(source, "features"):
        yield from _of_data_set(source)
    elif isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        for path in source:
            if not isinstance(path, str | Path):
                raise EdjeError(f"got a list with a {type(path).__name__}; expected {EXPECTED}.")
            yield from _of(path)
    else:
        raise EdjeError(f"got a {type(source).__name__} to add; expected {EXPECTED}.")


def _may_be_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(mode_of(path, path))
    except EdjeError:
        return True


def _of_data_set(source: Any) -> Iterator[GivenPicture]:
    if IMAGE not in source.column_names:
        raise EdjeError(
            f"the data set has the columns {', '.join(source.column_names)}, but none named "
            f"{IMAGE!r}. Rename it: dataset.rename_column(<its name>, {IMAGE!r})."
        )
    id_column = next((name for name in IDS if name in source.column_names), None)
    ids = range(len(source)) if id_column is None else source[id_column]
    encoded = source.select_columns([IMAGE])
    if hasattr(feature := source.features[IMAGE], "decode"):
        encoded = encoded.cast_column(IMAGE, type(feature)(decode=False))  # each read when used
    for row, name in enumerate(ids):
        yield GivenPicture(valid_id(str(name)), data=encoded, row=row)
