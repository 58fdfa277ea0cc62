"""Pairs of query and document, as programs pass them, split into what is encoded once."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edje.captions import clean_caption
from edje.errors import EdjeError
from edje.images.pictures import Picture, is_unicode, name_of, same_picture
from edje.inference.encoded_images import EncodedImage, EncodedImages

Image = Picture | EncodedImage
EXPECTED = (
    "a text as query with pictures (paths, PIL images, bytes, arrays, rows of EncodedImages) "
    "as documents, or a picture as query (a path as pathlib.Path) with texts"
)


@dataclass(frozen=True)
class Pairs:
    """Distinct texts and pictures, and the two rows of each pair.

    A pair is `is_t2i` if its query is the text.
    """

    texts: list[str]
    images: EncodedImages | list[Image]
    text_rows: Int[Tensor, "pairs"]
    image_rows: Int[Tensor, "pairs"]
    is_t2i: Bool[Tensor, "pairs"]

    @property
    def image_places(self) -> list[int]:
        """The first pair of each image."""
        first: dict[int, int] = {}
        for pair, row in enumerate(self.image_rows.tolist()):
            first.setdefault(row, pair)
        return [first[row] for row in range(len(self.images))]


def pairs_of(pairs: Iterable[Sequence[Any]]) -> Pairs:
    """The texts and pictures of any pairs, without duplicates.

    Raises:
        EdjeError: an item isn't a pair, or a pair isn't a text and a picture.
    """
    texts: dict[str, int] = {}
    images: dict[Hashable, int] = {}
    given: list[Image] = []
    rows: list[tuple[int, int, bool]] = []
    for place, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise EdjeError(
                f"pair {place} (from 0): got {_shown(pair)} as a pair; expected (query, document)."
            )
        query, document = pair
        is_t2i = isinstance(query, str)
        text, image = (query, document) if is_t2i else (document, query)
        if not isinstance(text, str) or not isinstance(image, EncodedImage | Picture):
            raise EdjeError(
                f"pair {place} (from 0): got a pair of {_shown(query)} and {_shown(document)}; "
                f"expected {EXPECTED}."
            )
        key = id(image) if isinstance(image, EncodedImage) else same_picture(image)
        if key not in images:
            images[key] = len(images)
            given.append(image)
        rows.append((texts.setdefault(text, len(texts)), images[key], is_t2i))
    columns = torch.tensor(rows, dtype=torch.long).reshape(-1, 3)
    return Pairs(list(texts), given, columns[:, 0], columns[:, 1], columns[:, 2].bool())


def pairs_of_query(query: Any, documents: EncodedImages | Iterable[Any]) -> Pairs:
    """One query with each of its documents; encoded images are used as they are.

    Raises:
        EdjeError: as `pairs_of`.
    """
    if isinstance(query, str):
        check_query(query)
    if not isinstance(documents, EncodedImages):
        return pairs_of((query, document) for document in documents)
    if not isinstance(query, str):
        raise EdjeError(
            f"got {_shown(query)} as query of encoded images; expected a text. If the query is a "
            "picture, its documents are texts."
        )
    every = torch.arange(len(documents))
    same = torch.zeros_like(every)
    return Pairs([query], documents, same, every, torch.ones_like(every, dtype=torch.bool))


def check_query(query: Any) -> None:
    """Refuse a query of which the encoders would read nothing.

    Raises:
        EdjeError: it isn't a text of valid Unicode, or is empty or punctuation alone.
    """
    if not isinstance(query, str) or not is_unicode(query) or not clean_caption(query):
        raise EdjeError(f"got {query!r} as query, expected a text with words.")


def texts_of(given: Any, what: str) -> list[str]:
    """Several texts as a list.

    Raises:
        EdjeError: it is a single text, not iterable, or something in it isn't a text.
    """
    texts = several(given, what)
    for place, one in enumerate(texts):
        if not isinstance(one, str):
            raise EdjeError(
                f"number {place} (from 0): got {_shown(one)} among {what}; expected texts."
            )
    return list(texts)


def several(given: Any, what: str) -> Any:
    """Encoded images as they are; any other iterable, also a generator, as a list.

    Raises:
        EdjeError: it is a single text, picture or encoded image, or not iterable.
    """
    if isinstance(given, EncodedImages):
        return given
    is_batch = isinstance(given, np.ndarray) and (given.dtype != np.uint8 or given.ndim == 4)
    is_one = isinstance(given, Picture | EncodedImage) and not is_batch
    if is_one or not isinstance(given, Iterable):
        raise EdjeError(f"got {_shown(given)} as {what}; expected a list of them.")
    return list(given)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, EncodedImage | EncodedImages):
        return type(value).__name__
    return name_of(value) if isinstance(value, Picture) else f"a {type(value).__name__}"
