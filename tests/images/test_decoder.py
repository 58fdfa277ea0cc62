"""Pictures of any size and of telephones, and files that are none."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from edje.errors import EdjeError
from edje.images import decoder
from edje.images.decoder import open_image, problem_of, size_of
from edje.index.given_pictures import ENDINGS

LEFT, RIGHT = (200, 30, 30), (30, 60, 200)


def panorama(path: Path, width: int, height: int) -> Path:
    """Red on its left half, blue on its right."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    image.save(path, quality=90)
    return path


def is_panorama(image: Image.Image) -> None:
    width, height = image.size
    for place, colour in ((width // 4, LEFT), (3 * width // 4, RIGHT)):
        assert np.abs(np.subtract(image.getpixel((place, height // 2)), colour)).max() <= 8


@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((3000, 2000), (3000, 2000)),
        ((30_000, 1_400), (15_000, 700)),
        ((30_001, 6_001), (7501, 1501)),
    ],
)
def test_a_jpeg_is_reduced_where_it_is_large_and_looks_the_same(
    tmp_path: Path, size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    path = panorama(tmp_path / "wide.jpg", *size)
    image = open_image(path)
    assert image.size == reduced
    is_panorama(image)
    assert problem_of(path) is None


def test_the_least_picture_is_one(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tiff", "avif"):
        path = tmp_path / f"one.{suffix}"
        Image.new("RGB", (1, 1), (255, 255, 255)).save(path)
        assert open_image(path).size == (1, 1) and problem_of(path) is None, suffix


def test_a_large_picture_of_another_format_is_opened_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    path = panorama(tmp_path / "wide.png", 100, 60)
    assert open_image(path).size == (100, 60)


def test_more_pixels_than_are_decoded_are_a_broken_image_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "MOST_PIXELS", 4_000)
    path = panorama(tmp_path / "wide.png", 100, 60)
    assert problem_of(path) == "100 × 60 pixels, more than the limit of 4,000"
    with pytest.raises(EdjeError, match=r"wide\.png is not readable \(100 × 60 pixels"):
        open_image(path)


def test_pil_itself_refuses_what_claims_far_more(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (1, 1)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">II", 60_000, 60_000)  # width and height, as its header has them
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "bomb.png").write_bytes(content)
    assert "decompression bomb" in str(problem_of(tmp_path / "bomb.png"))


def test_postscript_is_no_picture_and_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("it ran"))
    Image.new("RGB", (4, 4), LEFT).save(tmp_path / "one.eps")
    content = (tmp_path / "one.eps").read_bytes()
    assert problem_of(tmp_path / "one.eps") == "no image of a known format"
    with pytest.raises(UnidentifiedImageError):
        size_of(content)


def test_formats_that_folders_are_searched_for_are_read(tmp_path: Path) -> None:
    for ending in ENDINGS:
        kind = Image.registered_extensions().get(ending)
        if kind is not None and kind != "HEIF":  # which is for another package
            Image.new("RGB", (32, 32), LEFT).save(tmp_path / f"one{ending}", kind)
            assert problem_of(tmp_path / f"one{ending}") is None


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "none.jpg").touch()
    assert problem_of(tmp_path / "none.jpg") == "the file is empty"


def test_the_first_frame_of_a_stereo_picture_is_it(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (40, 30), LEFT), Image.new("RGB", (40, 30), RIGHT)
    first.save(tmp_path / "two.mpo", save_all=True, append_images=[second], quality=95)
    assert np.abs(np.subtract(open_image(tmp_path / "two.mpo").getpixel((5, 5)), LEFT)).max() <= 8


def test_a_picture_of_a_telephone_comes_upright(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: edje[heif]")
    image = Image.new("RGB", (64, 128), LEFT)
    image.paste(RIGHT, (0, 64, 64, 128))  # below, which a quarter turn brings to the left
    exif = Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(image).save(tmp_path / "one.heic", quality=90, exif=exif.tobytes())
    opened = open_image(tmp_path / "one.heic")
    assert opened.size == (128, 64)
    assert np.abs(np.subtract(opened.getpixel((20, 32)), RIGHT)).max() <= 12


def test_a_picture_of_a_telephone_names_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "reads_heif", lambda: False)
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    (tmp_path / "one.heic").write_bytes(content)
    assert problem_of(tmp_path / "one.heic") == "a HEIF image: pip install 'edje[heif]'"
