"""Claims about the pixels that an image file gives: the right values, whatever its mode."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.data.images import check_images
from edje.errors import EdjeError
from edje.images.decoder import open_image
from edje.images.pixels import to_rgb
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit

Colour = tuple[int, int, int]
BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


def colours(path: Path) -> list[Colour]:
    """The first row of an image."""
    image = open_image(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(image)[0].tolist()]


def png(depth: int, colour: int, row: bytes, width: int, **chunks: bytes) -> bytes:
    """A PNG of one row, chunk by chunk: PIL doesn't write all that it reads."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "right"),
    [
        ("1", 1, "png", WHITE),
        ("1", 0, "png", BLACK),
        ("L", 100, "png", (100, 100, 100)),
        ("RGB", (1, 2, 3), "png", (1, 2, 3)),
        ("RGBX", (1, 2, 3, 0), "tif", (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("CMYK", (255, 255, 0, 0), "jpg", (0, 0, 255)),
        ("YCbCr", (255, 128, 128), "jpg", WHITE),
        ("LA", (0, 255), "png", BLACK),
        ("LA", (0, 0), "png", WHITE),
        ("LA", (0, 102), "png", (153, 153, 153)),  # 0.4 black + 0.6 white
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGBA", (0, 0, 0, 0), "png", WHITE),
        ("RGBA", (255, 0, 0, 51), "png", (255, 204, 204)),  # 0.2 red + 0.8 white
        ("RGBA", (0, 0, 0, 0), "webp", WHITE),
        ("RGBA", (0, 0, 0, 0), "tif", WHITE),
        ("RGBA", (0, 0, 0, 0), "gif", WHITE),
    ],
)
def test_a_mode_gives_its_colour_on_white(
    tmp_path: Path, mode: str, value: int | tuple[int, ...], suffix: str, right: Colour
) -> None:
    Image.new(mode, (2, 2), value).save(tmp_path / f"a.{suffix}", lossless=True)
    for colour in colours(tmp_path / f"a.{suffix}"):
        assert np.abs(np.subtract(colour, right)).max() <= (2 if suffix == "jpg" else 0)


def test_modes_that_live_in_memory_only_are_composited_too() -> None:
    assert to_rgb(Image.new("PA", (1, 1))).getpixel((0, 0)) == WHITE
    assert to_rgb(Image.new("La", (1, 1), (0, 0))).getpixel((0, 0)) == WHITE
    assert to_rgb(Image.new("RGBa", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == WHITE
    assert to_rgb(Image.new("HSV", (1, 1), (0, 255, 255))).getpixel((0, 0)) == RED


def test_black_on_transparent_stays_a_drawing(tmp_path: Path) -> None:
    drawing = np.zeros((1, 3, 4), np.uint8)
    drawing[0, 1, 3] = 255  # all is black, one pixel of it is seen
    Image.fromarray(drawing).save(tmp_path / "a.png")
    assert colours(tmp_path / "a.png") == [WHITE, BLACK, WHITE]


@pytest.mark.parametrize(
    ("content", "right"),
    [  # each with a transparent pixel and one that isn't
        (png(1, 0, b"\x40", 2, tRNS=b"\0\0"), [WHITE, WHITE]),
        (png(8, 0, b"\x05\x5f", 2, tRNS=b"\0\x05"), [WHITE, (95, 95, 95)]),
        (png(16, 0, b"\x05\x5f\x80\0", 2, tRNS=b"\x05\x5f"), [WHITE, (128, 128, 128)]),
        (png(8, 2, bytes([5, 6, 7, 1, 2, 3]), 2, tRNS=b"\0\5\0\6\0\7"), [WHITE, (1, 2, 3)]),
        (
            png(2, 3, b"\x10", 2, PLTE=bytes([9, 9, 9, 205, 105, 55]), tRNS=b"\0\x33"),
            [WHITE, (245, 225, 215)],  # 0.2 of the colour + 0.8 white
        ),
    ],
    ids=["1 bit", "8 bit grey", "16 bit grey", "RGB", "palette"],
)
def test_a_transparent_colour_of_a_png_is_white(
    tmp_path: Path, content: bytes, right: list[Colour]
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert colours(tmp_path / "a.png") == right


@pytest.mark.parametrize(
    ("kind", "suffix"), [("<u2", "png"), ("<u2", "tif"), (">u2", "tif"), ("<u2", "pgm")]
)
def test_sixteen_bit_grey_keeps_its_highest_eight(tmp_path: Path, kind: str, suffix: str) -> None:
    Image.fromarray(np.array([[0, 0x00FF, 0x8000, 0xFFFF]], kind)).save(tmp_path / f"a.{suffix}")
    assert [grey for grey, *_ in colours(tmp_path / f"a.{suffix}")] == [0, 0, 128, 255]


@pytest.mark.parametrize(
    ("samples", "right"),
    [
        (np.array([0, 1000, 4000], np.int32), [0, 64, 255]),  # 255 / 4 is 63.75
        (np.array([-200, -100, 0], np.int32), [0, 128, 255]),
        (np.array([7, 7, 7], np.int32), [0, 0, 0]),
        (np.array([0.0, 0.2, 1.0], np.float32), [0, 51, 255]),
        (np.array([-1e30, 0, 1e30], np.float32), [0, 128, 255]),
        (np.array([np.nan, 0, 1, np.inf, -np.inf], np.float32), [0, 0, 255, 255, 0]),
    ],
)
def test_thirty_two_bits_are_scaled_from_their_least_to_their_greatest(
    tmp_path: Path, samples: np.ndarray, right: list[int]
) -> None:
    Image.fromarray(samples[None]).save(tmp_path / "a.tif")
    assert [grey for grey, *_ in colours(tmp_path / "a.tif")] == right


def test_unsigned_and_twelve_bit_samples_of_a_tiff_are_read_as_such(tmp_path: Path) -> None:
    def tiff(bits: int, samples: bytes) -> bytes:
        tags = [(256, 3), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
        tags += [(279, len(samples)), (339, 1)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        start = 8 + len(samples)
        return (
            b"II*\0" + struct.pack("<I", start) + samples + struct.pack("<H", len(tags)) + entries
        ) + bytes(4)

    (tmp_path / "a.tif").write_bytes(tiff(32, struct.pack("<3I", 0, 2**31, 2**32 - 1)))
    assert [grey for grey, *_ in colours(tmp_path / "a.tif")] == [0, 128, 255]
    (tmp_path / "b.tif").write_bytes(tiff(12, bytes([0x00, 0x08, 0x00, 0xFF, 0xF0])))
    assert [grey for grey, *_ in colours(tmp_path / "b.tif")] == [0, 128, 255]


def test_a_tiff_whose_zero_is_white_is_inverted_at_any_depth(tmp_path: Path) -> None:
    def tiff(samples: np.ndarray, kind: int) -> bytes:
        bits, data = 8 * samples.itemsize, samples.tobytes()
        tags = [(256, samples.size), (257, 1), (258, bits), (259, 1), (262, 0), (273, 8)]
        tags += [(277, 1), (278, 1), (279, len(data)), (339, kind)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        head = b"II*\0" + struct.pack("<I", 8 + len(data))
        return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)

    for samples, kind, right in (
        (np.array([0, 100, 255], "<u1"), 1, [255, 155, 0]),
        (np.array([0, 100 << 8, 65535], "<u2"), 1, [255, 155, 0]),
        (np.array([0, 0.2, 1, np.nan], "<f4"), 3, [255, 204, 0, 0]),
    ):
        (tmp_path / "a.tif").write_bytes(tiff(samples, kind))
        assert [grey for grey, *_ in colours(tmp_path / "a.tif")] == right


def test_floats_of_a_portable_map_are_scaled_as_others(tmp_path: Path) -> None:
    (tmp_path / "a.pfm").write_bytes(b"Pf\n3 1\n-1.0\n" + struct.pack("<3f", -1, 0, 3))
    assert [grey for grey, *_ in colours(tmp_path / "a.pfm")] == [0, 64, 255]


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (2, 2), RED), Image.new("RGB", (2, 2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert colours(tmp_path / "a.gif") == [RED, RED]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = np.zeros((32, 64), np.uint8)
    upright[:16, :16] = 255  # white upper left
    stored = {  # how a camera held so writes it, by the definition of the EXIF tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    image = open_image(path)
    assert image.size == (64, 32)
    assert [image.getpixel(place)[0] > 128 for place in ((4, 4), (60, 4), (4, 28), (60, 28))] == [
        True,
        False,
        False,
        False,
    ]


def test_pixels_that_mean_nothing_are_refused_by_check_and_reader_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(path)
    with pytest.raises(EdjeError, match=r"a\.tif is not readable \(none of its pixels is a finite"):
        open_image(path)
    split = RetrievalSplit(
        "tiny", "val", (ImageRecord("a", str(path)),), (CaptionRecord("a#0", "a", "dog"),)
    )
    with pytest.raises(EdjeError, match="none of its pixels is a finite"):
        check_images(split, "error")
