"""Images stored inside a data set, written to files once, byte for byte."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edje.durable import new_file
from edje.errors import EdjeError

log = logging.getLogger(__name__)


def export_images(
    contents: Mapping[str, Callable[[int], bytes | None]],
    locations: Sequence[str],
    origins: Mapping[str, Path],
    root: Path,
    dataset: str,
) -> None:
    """Write the files that don't exist yet or whose origin changed, each atomically by rename.

    A location is `<folder>/<row>` below `root`. `contents` gives the bytes of a folder's rows,
    or None for a row without an image, which gets no file. `origins` gives the files of images
    that are files; their copies have their times. An interrupted export continues where it
    stopped.

    Raises:
        EdjeError: a file can't be written.
    """
    missing = [
        location
        for location in locations
        if not _is_written(root / location, origins.get(location))
    ]
    if not missing:
        return
    started = time.perf_counter()
    log.info("%s: writing %d images below %s", dataset, len(missing), root)
    try:
        for location in missing:
            folder, _, row = location.rpartition("/")
            origin = origins.get(location)
            status = origin.stat() if origin and origin.is_file() else None
            content = contents[folder](int(row))
            if content is not None:
                path = root / location
                path.parent.mkdir(parents=True, exist_ok=True)
                with new_file(path) as temporary:
                    temporary.write_bytes(content)
                    if status is not None:
                        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError as error:
        raise EdjeError(
            f"{dataset}: can't write its images below {root} ({error}). Make room there, or set "
            "cache_dir=<a folder to write to>."
        ) from error
    log.info("%s: wrote them in %.1f s", dataset, time.perf_counter() - started)


def _is_written(path: Path, origin: Path | None) -> bool:
    """Whether a file exists and, if it is the copy of another that exists, is like that one."""
    if origin is None or not origin.is_file() or not path.exists():
        return path.exists()
    ours, theirs = path.stat(), origin.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
