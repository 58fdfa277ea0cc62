"""Image files: opening them, and finding the broken ones before anything is written."""

import io
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from edje.data.pixels import orientation, to_rgb
from edje.data.sources.source import BadImages
from edje.errors import EdjeError
from edje.records import ImageRecord, RetrievalSplit

log = logging.getLogger(__name__)


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The image as RGB, upright by its EXIF orientation, fully decoded; see `to_rgb`.

    An EXIF block that can't be read is passed over: the picture is taken as it lies. With
    `content`, the encoded image, the path only names it.

    Raises:
        EdjeError: the file is missing or not a whole image.
    """
    try:
        return _decoded(path, content)
    except Exception as error:  # decoders raise anything, from OSError to struct.error
        raise EdjeError(
            f"image {path} is not readable ({_brief(error)}). Mend or replace it, "
            "or leave such images out with data.bad_images=skip."
        ) from error


def check_images(
    split: RetrievalSplit,
    policy: BadImages,
    *,
    num_threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> RetrievalSplit:
    """Decode every image of a split and apply the policy to those that can't be.

    With `skip` they are left out, their captions too, and listed in `skipped`. `progress` is
    told how many images have been checked since its last call.

    Raises:
        EdjeError: an image is unreadable under the policy `error`, or none is readable.
    """
    broken: dict[str, str] = {}
    pool = ThreadPoolExecutor(num_threads or os.cpu_count())
    try:
        problems = pool.map(_problem, split.images)
        for image, problem in zip(split.images, problems, strict=True):
            if problem is not None:
                broken[image.image_id] = problem
            if progress is not None:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt doesn't wait for the other images
    if not broken:
        return split
    first = next(iter(broken))
    summary = f"{len(broken):,} of {len(split.images):,} images of split {split.name!r}"
    if policy == "error" or len(broken) == len(split.images):
        raise EdjeError(
            f"{split.dataset}: {summary} are not readable, such as {first} ({broken[first]}). "
            "Mend or replace them, or leave them out with data.bad_images=skip."
        )
    log.warning("%s: left out %s: %s", split.dataset, summary, ", ".join(broken))
    return replace(
        split,
        images=tuple(image for image in split.images if image.image_id not in broken),
        captions=tuple(item for item in split.captions if item.image_id not in broken),
        skipped=tuple(sorted({*split.skipped, *broken})),
    )


def _problem(record: ImageRecord) -> str | None:
    """Why `open_image` can't read an image; None if it can."""
    try:
        _decoded(record.path, draft=True)
    except Exception as error:  # as in open_image
        return _brief(error)
    return None


def _decoded(path: str | Path, content: bytes | None = None, *, draft: bool = False) -> Image.Image:
    """The image, or with `draft` where it is a JPEG one of an eighth of its size.

    That one is made faster of the same bytes, all of them: it fails where the whole one would.
    """
    # Its bytes, not its name: PIL maps a named TIFF with the sides that it has once turned.
    content = Path(path).read_bytes() if content is None else content
    with Image.open(io.BytesIO(content)) as image:
        if draft:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        try:
            turn = orientation(image)
        except Exception as error:  # its parsers raise anything, and the pixels are sound
            log.info("%s: its EXIF block is passed over (%s)", path, _brief(error))
            turn = None
        rgb = to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def _brief(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose own words name a buffer in memory
        return "no image of a known format"
    return str(error) or type(error).__name__
