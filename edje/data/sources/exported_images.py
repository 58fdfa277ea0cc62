"""Images stored inside a data set, written to files once, byte for byte."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edje.durable import new_file
from edje.errors import EdjeError

log = logging.getLogger(__name__)


def export_images(
    contents: Mapping[str, Callable[[int], bytes | None]],
    locations: Sequence[str],
    root: Path,
    dataset: str,
) -> None:
    """Write the files that don't exist yet, each atomically by rename.

    A location is `<folder>/<row>` below `root`. `contents` gives the bytes of a folder's rows,
    or None for a row without an image, which gets no file. An interrupted export continues where
    it stopped.

    Raises:
        EdjeError: a file can't be written.
    """
    missing = [location for location in locations if not (root / location).exists()]
    if not missing:
        return
    started = time.perf_counter()
    log.info("%s: writing %d images below %s", dataset, len(missing), root)
    try:
        for location in missing:
            folder, _, row = location.rpartition("/")
            content = contents[folder](int(row))
            if content is not None:
                path = root / location
                path.parent.mkdir(parents=True, exist_ok=True)
                with new_file(path) as temporary:
                    temporary.write_bytes(content)
    except OSError as error:
        raise EdjeError(
            f"{dataset}: can't write its images below {root} ({error}). Make room there, or set "
            "cache_dir=<a folder to write to>."
        ) from error
    log.info("%s: wrote them in %.1f s", dataset, time.perf_counter() - started)
