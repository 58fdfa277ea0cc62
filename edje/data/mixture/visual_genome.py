"""Visual Genome's photos that are also images of COCO or Flickr30k, by its own list of them."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from edje.errors import EdjeError

log = logging.getLogger(__name__)

REGIONS = "region_descriptions.json"
IMAGE_DATA = "image_data.json"
_COCO = re.compile(r"(?:COCO_[a-z0-9]+_)?(\d{12})")  # COCO_val2014_000000391895, 000000391895
_FLICKR = re.compile(r"(\d{6,11})(?:_[0-9a-f]{10})?")  # 1000092795, 1000268201_693b08cb0e


def copies(root: Path, key: str, images: Iterable[str]) -> frozenset[str]:
    """Names, without suffix, of Visual Genome's files in `root` that show one of the images.

    Its photos come from COCO and Flickr, about half of them with a number in COCO, but as files
    of another name and size. `image_data.json` has their numbers there; the images' are in their
    names. Empty where `root` is another dataset's, or the list isn't there, which is told.

    Raises:
        EdjeError: the list can't be read.
    """
    path = root / IMAGE_DATA
    if not path.is_file():
        if (root / REGIONS).is_file():
            log.warning(
                "%s: Visual Genome may contain evaluated images under other names, and they would "
                "be trained on. Put its %s into %s, so that they are left out.",
                *(key, IMAGE_DATA, root),
            )
        return frozenset()
    numbers = {number for image in images if (number := _number(image)) is not None}
    try:
        return frozenset(
            str(one["image_id"] if "image_id" in one else one["id"])  # its first version's name
            for one in json.loads(path.read_bytes())
            if {("coco_id", one["coco_id"]), ("flickr_id", one["flickr_id"])} & numbers
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EdjeError(
            f"{key}: {path} isn't Visual Genome's list of images ({error!r}). It says which of "
            "them are evaluated images of COCO or Flickr30k: get it again, or remove it to train "
            "on all."
        ) from error


def _number(image: str) -> tuple[str, int] | None:
    """An image's number in COCO or on Flickr, from its file's name."""
    stem = PurePosixPath(image).stem
    for key, form in (("coco_id", _COCO), ("flickr_id", _FLICKR)):
        if found := form.fullmatch(stem):
            return key, int(found[1])
    return None
