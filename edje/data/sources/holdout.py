"""Holding back training images to choose on."""

import hashlib
import logging
from dataclasses import replace

from edje.data.sources.source import Source
from edje.errors import EdjeError
from edje.records import RetrievalSplit

log = logging.getLogger(__name__)


def hold_out(split: RetrievalSplit, count: int, seed: int) -> tuple[RetrievalSplit, RetrievalSplit]:
    """Divide a split into the images to train on and `count` images to choose on, `dev`.

    Whether an image is held out depends only on the seed and the ids, not on the order. Adding or
    removing an image moves at most one other image to the other side.

    Raises:
        EdjeError: fewer than one image would be left on either side.
    """
    if not 0 < count < len(split.images):
        raise EdjeError(
            f"{split.dataset}: can't hold out {count:,} of the {len(split.images):,} images of "
            f"split {split.name!r}. Set data.dev_images between 1 and {len(split.images) - 1:,}."
        )

    def place(image_id: str) -> bytes:
        return hashlib.sha256(f"dev {seed} {image_id}".encode()).digest()

    held = set(sorted((image.image_id for image in split.images), key=place)[:count])
    return (
        split.restricted({image.image_id for image in split.images} - held),
        replace(split.restricted(held), name="dev", skipped=()),
    )


def never_trained_on(source: Source) -> list[RetrievalSplit]:
    """What a run on a source chooses on and reports: its dev images, val, test, evaluated split.

    A split that can't be read can't be reported on either; it is left out with a warning.

    Raises:
        EdjeError: the training split can't be read or divided.
    """
    there = source.splits()
    splits = []
    for name in sorted({source.split, "val", "test"} & set(there) - {"train"}):
        try:
            splits.append(source.read(name))
        except EdjeError as error:
            log.warning("none of its images is held back: %s", error)
    if source.dev_images and "train" in there:
        splits.append(hold_out(source.read("train"), source.dev_images, source.dev_seed)[1])
    return splits
