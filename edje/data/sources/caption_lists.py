"""Annotations in BLIP's and ALBEF's form: a JSON list of images and captions per split."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edje.data.sources.assembly import possible_locations, require_json
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.source import AnnotatedImage
from edje.data.sources.spelling import one_spelling
from edje.errors import EdjeError

ImageIds = Literal["name", "path"]


def read_caption_list(
    path: Path, split: str, folders: Sequence[str], dataset: str, image_ids: ImageIds = "name"
) -> list[AnnotatedImage]:
    """The images of one list, each with the captions of all its entries.

    An entry has `image` (a path), `caption` (one or a list) and optionally `image_id`. Image ids
    are the file names, or the paths; `image_id` is only checked: it must agree with them.

    Args:
        folders: where images are searched, relative to the root.

    Raises:
        EdjeError: the file is not such a list, or it contradicts itself about its images.
    """
    content = require_json(path, dataset)
    if not isinstance(content, list):
        raise _malformed(path, dataset, "not a list")
    captions: dict[str, ImageCaptions] = {}
    image_of_name: dict[str, str] = {}
    image_of_id: dict[str | int, str] = {}
    id_of_image: dict[str, str | int] = {}
    for number, entry in enumerate(content):
        image, said, image_id = caption_list_entry(number, entry, path, dataset)
        image = one_spelling(image)
        captions.setdefault(image, ImageCaptions(image)).add(said, f"entry {number}")
        problem = _contradiction(image_of_name, named(image, image_ids), image)
        problem = problem and f"{problem} (if these are two images, set data.image_ids=path)"
        if image_id is not None:
            problem = problem or _contradiction(image_of_id, image_id, image)
            problem = problem or _contradiction(id_of_image, image, image_id)
        if problem:
            raise _malformed(path, dataset, f"entry {number}: {problem}")
    return [
        AnnotatedImage(
            image_id=named(image, image_ids),
            split=split,
            locations=possible_locations(folders, image, tails_too=image_ids == "name"),
            captions=tuple(said.texts),
            bad_captions=tuple(said.bad),
        )
        for image, said in captions.items()
    ]


def named(path: str, image_ids: ImageIds) -> str:
    """The id of an image whose path is in `one_spelling`."""
    return PurePosixPath(path).name if image_ids == "name" else path


def caption_list_entry(
    number: int, entry: Any, path: Path, dataset: str
) -> tuple[str, Any, str | int | None]:
    """Image, caption (one, or a list) and image_id of one entry; the caption is not checked yet.

    Raises:
        EdjeError: it is not an entry of such a list.
    """
    if not isinstance(entry, dict):
        raise _malformed(path, dataset, f"entry {number} is {str(entry)[:40]!r}")
    image, image_id = entry.get("image"), entry.get("image_id")
    if not isinstance(image, str) or not PurePosixPath(image).name:
        raise _malformed(path, dataset, f"entry {number} has no 'image'")
    if "caption" not in entry:
        raise _malformed(path, dataset, f"entry {number} ({image}) has no 'caption' of text")
    if not isinstance(image_id, str | int | None):
        raise _malformed(path, dataset, f"entry {number} ({image}) has image_id {image_id!r}")
    return image, entry["caption"], image_id


def _contradiction(known: dict[Any, Any], key: str | int, value: str | int) -> str | None:
    """The contradiction if a key already has another value; otherwise keeps the value."""
    first = known.setdefault(key, value)
    return None if first == value else f"{key} stands for {first} and for {value}"


def _malformed(path: Path, dataset: str, problem: str) -> EdjeError:
    return EdjeError(
        f"{dataset}: {path} is not a caption list: {problem}. Expected "
        '[{"image": <path>, "caption": <text or list of texts>, "image_id": …}, …].'
    )
