"""The gallery of a run's report: examples whose images are embedded in the page as text."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edje.analysis.gallery import DrawnExamples, Example, drawn_examples
from edje.analysis.lists import image_paths
from edje.analysis.table import STAGES
from edje.errors import EdjeError
from edje.images.decoder import open_image

SIDE = 144  # pixels of a thumbnail's longer side
MOST_OF_IMAGES = 2_000_000  # bytes of all images; further examples are left out with a note


@dataclass(frozen=True)
class Thumbnail:
    """An image of a ranked list as the page shows it; `uri` is None if its file is gone."""

    uri: str | None
    alt: str
    is_true: bool


@dataclass(frozen=True)
class PicturedExample:
    """A caption with the images ranked first before and after reranking."""

    text: str
    is_fixed: bool
    rows: tuple[tuple[str, str, tuple[Thumbnail, ...]], ...]  # stage, rank of the true image


@dataclass(frozen=True)
class PicturedGallery:
    """Examples with their images, and a note about those that are left out."""

    head: str
    examples: tuple[PicturedExample, ...]
    left_out: str


def pictured(folder: Path, examples: int) -> PicturedGallery:
    """Randomly drawn examples with their images as data URIs.

    Raises:
        EdjeError: the run has no lists, or no image is at its path any more.
    """
    drawn, paths = drawn_examples(folder, examples=examples), image_paths(folder)
    uris: dict[str, str | None] = {}
    shown: list[PicturedExample] = []
    size = 0
    for example in drawn.examples:
        ids = [image_id for row in example.shown for image_id in row]
        for image_id in set(ids) - uris.keys():
            uris[image_id] = data_uri(paths.get(image_id))
        size += sum(len(uris[image_id] or "") for image_id in ids)
        if size > MOST_OF_IMAGES:
            break
        shown.append(_pictured(example, uris))
    if drawn.examples and not any(uris.values()):
        raise EdjeError(
            f"{drawn.head} No example is shown: the images are no longer at their paths."
        )
    return PicturedGallery(drawn.head, tuple(shown), _left_out(drawn, len(shown)))


def _left_out(drawn: DrawnExamples, shown: int) -> str:
    rest = len(drawn.examples) - shown
    return f"{rest} more examples are left out, to keep this page small." if rest else ""


def _pictured(example: Example, uris: Mapping[str, str | None]) -> PicturedExample:
    rows = []
    stages = (STAGES["first_stage"], STAGES["reranked"])
    for stage, rank, ids in zip(stages, example.ranks, example.shown, strict=True):
        listed = f"true image: rank {rank:.0f}" if np.isfinite(rank) else "true image: not listed"
        images = tuple(
            Thumbnail(
                uris[image_id],
                f"{stage}, rank {place}: {image_id}"
                + (", the true image" if image_id == example.truth else ""),
                image_id == example.truth,
            )
            for place, image_id in enumerate(ids, 1)
        )
        rows.append((stage, listed, images))
    return PicturedExample(example.text, example.is_fixed, tuple(rows))


def data_uri(path: str | None) -> str | None:
    """A small version of an image as a data URI; None if the file can't be read."""
    if path is None:
        return None
    try:
        image = open_image(path)
    except EdjeError:
        return None
    image.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
