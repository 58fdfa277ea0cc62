"""Pictures come as paths, bytes, images of PIL or arrays; each way gives the same pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.errors import EdjeError
from edje.images.pictures import rgb_of, same_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_every_way_to_hold_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    content = encoded(image)
    (tmp_path / "a.png").write_bytes(content)
    ways = [tmp_path / "a.png", str(tmp_path / "a.png"), content, bytearray(content), image, PIXELS]
    for way in [*ways, Image.open(tmp_path / "a.png")]:
        assert np.array_equal(np.asarray(rgb_of(way)), PIXELS), type(way)


def test_an_image_of_pil_is_turned_upright_and_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # its right side is up
    turned = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS), exif=exif)))
    assert rgb_of(turned).size == (6, 9) and turned.size == (9, 6)
    assert np.array_equal(np.asarray(rgb_of(turned)), np.rot90(PIXELS, -1))


def test_grey_and_transparent_arrays_are_pictures() -> None:
    assert np.asarray(rgb_of(PIXELS[..., 0])).shape == (6, 9, 3)
    assert np.asarray(rgb_of(PIXELS[..., :1])).shape == (6, 9, 3)
    clear = np.concatenate([PIXELS, np.zeros((6, 9, 1), np.uint8)], axis=2)
    assert np.all(np.asarray(rgb_of(clear)) == 255)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS.astype(np.float32), r"an array of float32 of shape \(6, 9, 3\) is not a picture"),
        (PIXELS[..., :2], r"shape \(6, 9, 2\) is not a picture"),
        (PIXELS[:0], r"shape \(0, 9, 3\) is not a picture"),
        (7, "a int is not a picture; expected a path"),
        (b"", "a picture of 0 bytes can't be read as a picture .the file is empty."),
        (b"no picture", "a picture of 10 bytes can't be read"),
        ("absent.jpg", "absent.jpg can't be read as a picture .*No such file"),
    ],
)
def test_what_is_no_picture_is_named(given: object, message: str) -> None:
    with pytest.raises(EdjeError, match=message):
        rgb_of(given)  # type: ignore[arg-type]


def test_a_picture_given_twice_is_one() -> None:
    image, other = Image.fromarray(PIXELS), Image.fromarray(PIXELS)
    assert same_picture("a.jpg") == same_picture(Path("a.jpg")) != same_picture("b.jpg")
    assert same_picture(image) == same_picture(image) != same_picture(other)
    assert same_picture(b"12") == same_picture(bytes([49, 50]))
