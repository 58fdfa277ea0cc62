"""Holding back training images to choose on."""

import hashlib
from dataclasses import replace

from edje.errors import EdjeError
from edje.records import RetrievalSplit


def hold_out(split: RetrievalSplit, count: int, seed: int) -> tuple[RetrievalSplit, RetrievalSplit]:
    """Divide a split into what is left to train on and `count` images to choose on, `dev`.

    Whether an image is held out depends on the seed and the ids alone: the order doesn't
    matter, and an image that is added or left out moves at most one other across.

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
        _restrict(split, {image.image_id for image in split.images} - held),
        replace(_restrict(split, held), name="dev", skipped=()),
    )


def _restrict(split: RetrievalSplit, image_ids: set[str]) -> RetrievalSplit:
    return replace(
        split,
        images=tuple(image for image in split.images if image.image_id in image_ids),
        captions=tuple(caption for caption in split.captions if caption.image_id in image_ids),
    )
