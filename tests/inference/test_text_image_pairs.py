"""Queries and documents come in every way that programs hold them; what is none is named."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edje.errors import EdjeError
from edje.inference.encoded_images import EncodedImages
from edje.inference.text_image_pairs import pairs_of, pairs_of_query, several

PIXELS = np.zeros((2, 3, 3), np.uint8)
ENCODED = EncodedImages(torch.eye(3), torch.randn(3, 2, 5))


def test_a_generator_a_set_and_a_batch_of_arrays_are_lists_of_documents() -> None:
    assert several((name for name in "ab"), "documents") == ["a", "b"]
    assert several({"a.jpg"}, "documents") == ["a.jpg"]
    assert several(np.array(["a.jpg", "b.jpg"]), "documents") == ["a.jpg", "b.jpg"]
    assert len(several(np.stack([PIXELS, PIXELS]), "pictures")) == 2
    assert several(ENCODED, "documents") is ENCODED
    assert several([], "documents") == []


@pytest.mark.parametrize(
    ("one", "named"),
    [
        ("a.jpg", "the text 'a.jpg'"),
        (Path("a.jpg"), "a.jpg"),
        (b"12", "a picture of 2 bytes"),
        (bytearray(3), "a picture of 3 bytes"),
        (PIXELS, "an array of shape (2, 3, 3)"),
        (PIXELS[..., 0], "an array of shape (2, 3)"),
        (Image.new("RGB", (4, 5)), "an image of 4 × 5 pixels"),
        (ENCODED[0], "EncodedImage"),
        (None, "a NoneType"),
    ],
    ids=["text", "path", "bytes", "bytearray", "colours", "grey", "image", "encoded", "none"],
)
def test_a_single_one_is_not_taken_for_a_list(one: object, named: str) -> None:
    with pytest.raises(EdjeError, match=re.escape(f"got {named} as documents; expected a list")):
        several(one, "documents")


def test_both_directions_stand_in_one_list_and_each_part_is_there_once() -> None:
    picture = PIXELS.copy()
    pairs = pairs_of([("red", "a.jpg"), (Path("a.jpg"), "red"), ["blue", picture], (picture, "x")])
    assert pairs.texts == ["red", "blue", "x"] and len(pairs.images) == 2
    assert pairs.text_rows.tolist() == [0, 0, 1, 2]
    assert pairs.image_rows.tolist() == [0, 0, 1, 1]
    assert pairs.is_t2i.tolist() == [True, False, True, False]


def test_encoded_images_are_not_copied() -> None:
    pairs = pairs_of_query("red", ENCODED)
    assert pairs.images is ENCODED and pairs.image_rows.tolist() == [0, 1, 2]
    row = ENCODED[1]
    assert pairs_of([("red", row), ("blue", row)]).images == [row]
    with pytest.raises(EdjeError, match=r"got a\.jpg as query of encoded images; expected a text"):
        pairs_of_query(Path("a.jpg"), ENCODED)


@pytest.mark.parametrize("row", [1, -2, np.int64(1), torch.tensor(1)], ids=type)
def test_one_row_of_encoded_images_is_an_image(row: int) -> None:
    assert torch.equal(ENCODED[row].tokens, ENCODED.tokens[1])
    assert ENCODED[row].embedding.tolist() == [0, 1, 0]


def test_several_rows_of_encoded_images_are_encoded_images() -> None:
    mask = np.array([True, False, True])
    for rows in ([0, 2], np.array([0, 2]), torch.tensor([0, 2]), mask, slice(None, None, 2)):
        some = ENCODED[rows]  # type: ignore[call-overload]
        assert isinstance(some, EncodedImages) and torch.equal(some.tokens, ENCODED.tokens[::2])
    assert len(ENCODED[[]]) == 0 and [len(one.tokens) for one in ENCODED] == [2, 2, 2]
    with pytest.raises(IndexError):
        ENCODED[3]
