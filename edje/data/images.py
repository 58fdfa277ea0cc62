"""Finding broken image files before anything is written."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from edje.cores import cores
from edje.data.sources.source import BadImages
from edje.errors import EdjeError
from edje.images.decoder import problem_of
from edje.records import RetrievalSplit

log = logging.getLogger(__name__)


def check_images(
    split: RetrievalSplit,
    policy: BadImages,
    *,
    progress: Callable[[int], None] | None = None,
) -> RetrievalSplit:
    """Decode every image of a split and apply the policy to unreadable ones.

    With `skip`, they and their captions are left out and listed in `skipped`. `progress` gets
    the number of images checked since its last call.

    Raises:
        EdjeError: an image is unreadable under the policy `error`, or none is readable.
    """
    broken: dict[str, str] = {}
    pool = ThreadPoolExecutor(cores())
    try:
        problems = pool.map(problem_of, [image.path for image in split.images])
        for image, problem in zip(split.images, problems, strict=True):
            if problem is not None:
                broken[image.image_id] = problem
            if progress is not None:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)  # on an interrupt, don't wait for the other images
    if not broken:
        return split
    first = next(iter(broken))
    summary = f"{len(broken):,} of {len(split.images):,} images of split {split.name!r}"
    if policy == "error" or len(broken) == len(split.images):
        raise EdjeError(
            f"{split.dataset}: {summary} are not readable, such as {first} ({broken[first]}). "
            "Fix or replace them, or leave them out with data.bad_images=skip."
        )
    log.warning("%s: left out %s: %s", split.dataset, summary, ", ".join(broken))
    readable = {image.image_id for image in split.images} - broken.keys()
    return replace(split.restricted(readable), skipped=tuple(sorted({*split.skipped, *broken})))
