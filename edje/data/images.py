"""Image files: opening them, and finding the broken ones before anything is written."""

import hashlib
import io
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from edje.data.source import BadImages
from edje.errors import EdjeError
from edje.records import ImageRecord, RetrievalSplit

logger = logging.getLogger(__name__)


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The image as RGB, upright by its EXIF orientation, fully decoded.

    Transparency is dropped; 16-bit grey is scaled to 8 bits. With `content`, the encoded image,
    the path only names it.

    Raises:
        EdjeError: the file is missing or not a whole image.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise anything, from OSError to struct.error
        raise EdjeError(
            f"image {path} is not readable ({error}). Mend or replace it, "
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
    logger.warning("%s: left out %s: %s", split.dataset, summary, ", ".join(broken))
    return replace(
        split,
        images=tuple(image for image in split.images if image.image_id not in broken),
        captions=tuple(item for item in split.captions if item.image_id not in broken),
        skipped=tuple(sorted({*split.skipped, *broken})),
    )


def images_digest(split: RetrievalSplit) -> str:
    """SHA-256 over the ids and file sizes of a split's images.

    Part of what makes stored tokens comparable: other images under the same names are noticed
    without being read.

    Raises:
        EdjeError: an image file is gone.
    """
    digest = hashlib.sha256()
    for image in split.images:
        try:
            size = Path(image.path).stat().st_size
        except OSError as error:
            raise EdjeError(f"image {image.path} is not readable ({error}).") from error
        digest.update(f"{image.image_id}\t{size}\n".encode())
    return digest.hexdigest()


def _problem(record: ImageRecord) -> str | None:
    """Why an image can't be decoded; None if it can."""
    try:
        with Image.open(record.path) as image:
            # JPEG decodes at an eighth of the size this way, and reads the file to its end.
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except Exception as error:  # as in open_image
        return str(error) or type(error).__name__
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
