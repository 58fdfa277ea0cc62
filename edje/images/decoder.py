"""Decoding an image file: any common format and size, upright, as RGB."""

import io
import logging
import threading
import warnings
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from edje.errors import EdjeError
from edje.images.pixels import orientation, to_rgb

log = logging.getLogger(__name__)

# Stores and indexes of another version don't match: raise it only if pixels of common files change.
VERSION = 2  # version 1 refused large JPEGs
LARGE_JPEG = 40_000_000  # pixels; a larger one is reduced by 2, 4 or 8 during decoding
MOST_PIXELS = 178_956_970  # of other formats: twice PIL's own limit for suspicious files

FORMATS = (  # decoded without other programs, which EPS and WMF would be given to
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "HEIF", "JPEG2000", "PPM"),
    *("ICO", "ICNS", "PCX", "SGI", "TGA", "DDS", "PSD", "QOI"),
)
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_opening = threading.Lock()  # warning filters are shared by all threads


class MissingDecoder(ValueError):
    """Raised for a picture that another installed package would read."""


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The image as RGB, upright by its EXIF orientation, fully decoded; see `to_rgb`.

    JPEGs of more than 40 million pixels are reduced to a half, a quarter or an eighth of their
    size. An unreadable EXIF block is ignored: the image is taken as it is stored. With `content`,
    the encoded image, the path is only used as its name.

    Raises:
        EdjeError: the file is missing, not a whole image, or above the limit of pixels.
    """
    try:
        return decoded(path, content)
    except Exception as error:  # decoders raise anything, from OSError to struct.error
        raise EdjeError(
            f"image {path} is not readable ({brief(error)}). Fix or replace it, "
            "or leave such images out with data.bad_images=skip."
        ) from error


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of an encoded image as stored, by its header alone.

    Raises:
        Exception: as `decoded`.
    """
    with _opened(content) as image:
        return image.size


def problem_of(path: str | Path) -> str | None:
    """Why `open_image` can't read a file; None if it can. JPEGs are decoded at an eighth."""
    try:
        decoded(path, draft=True)
    except Exception as error:  # as in open_image
        return brief(error)
    return None


def decoded(path: str | Path, content: bytes | None = None, *, draft: bool = False) -> Image.Image:
    """What `open_image` gives; with `draft`, a JPEG is reduced to an eighth of its size.

    The reduced one is faster, but reads all bytes too: it fails for the same files.

    Raises:
        Exception: of any type, depending on the decoder; `brief` puts it in words.
    """
    # Bytes, not the name: PIL would map a named TIFF with the sides it had after a rotation.
    content = Path(path).read_bytes() if content is None else content
    with _opened(content) as image:
        if isinstance(image, JpegImageFile):
            factor = 8 if draft else _reduction(image.width * image.height)
            image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
        return upright(image, path)


def upright(image: Image.Image, name: str | Path) -> Image.Image:
    """An opened image as RGB, rotated by its EXIF block; `name` is for the log.

    Raises:
        Exception: as `decoded`.
    """
    image.load()
    try:
        turn = orientation(image)
    except Exception as error:  # its parsers raise anything, but the pixels are intact
        log.info("%s: its EXIF block is ignored (%s)", name, brief(error))
        turn = None
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _opened(content: bytes) -> Image.Image:
    """The image with its header read. PIL's own limit would refuse a JPEG before reducing it."""
    if not content:
        raise ValueError("the file is empty")
    if content.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(io.BytesIO(content))
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS and not reads_heif():
        raise MissingDecoder("a HEIF image: pip install 'edje[heif]'")
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.init()
        known = [one for one in FORMATS if one in Image.OPEN]
        image = Image.open(io.BytesIO(content), formats=known)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width} × {image.height} pixels, more than the limit of {MOST_PIXELS:,}"
        )
    return image


@cache
def reads_heif() -> bool:
    """Whether PIL can read phones' HEIF images, which needs an extra package."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _reduction(pixels: int) -> int:
    return next((factor for factor in (1, 2, 4) if pixels <= LARGE_JPEG * factor**2), 8)


def brief(error: Exception) -> str:
    """A decoder's error as a short text."""
    if isinstance(error, UnidentifiedImageError):  # its own message names a buffer in memory
        return "no image of a known format"
    return str(error) or type(error).__name__
