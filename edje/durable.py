"""Files that are either whole or absent: written aside, then renamed; forced to disk on request.

And what a disk refuses, in words.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edje.errors import EdjeError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file by rename; it is on disk when this returns."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)
        force_to_disk(temporary)
    force_to_disk(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write; it becomes `path` at the end of the block, if that succeeds.

    Readers see the old content or the new, also after a kill. The same holds after a power
    failure if the block forces the file to disk.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Where a file is written before it gets its name."""
    # The process id keeps concurrent writers of the same content apart.
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def rename(old: Path, new: Path) -> None:
    """Rename a file within its folder; force this and all earlier renames there to disk."""
    old.replace(new)
    force_to_disk(new.parent)


def force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Turn a refused or failing read into an error that the user can fix.

    Raises:
        EdjeError: the block failed to read something that is there.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise EdjeError(
            f"can't read {place}: {error}. Make it readable for this user, or check the disk."
        ) from error


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn disk failures into an error that the user can fix.

    Raises:
        EdjeError: the block failed to write; what was finished before is kept.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "Free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "Make the folder writable or choose another (cache_dir= of a run)"
        else:
            advice = "Check the path and the disk"
        raise EdjeError(
            f"can't write to {folder}: {error}. {advice}, then run the same command again: "
            "what was finished is kept."
        ) from error
