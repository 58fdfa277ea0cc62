"""Decoding a picture file: any common format, upright, as RGB, whatever its size."""

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

VERSION = 2  # raise it where pixels of some file come out differently; 1 took no large JPEG
LARGE_JPEG = 40_000_000  # pixels; a larger one is reduced by 2, 4 or 8 as it is decoded
MOST_PIXELS = 178_956_970  # of other formats, twice PIL's own measure of a suspicious file
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_opening = threading.Lock()  # the filters of warnings are all threads'


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """The image as RGB, upright by its EXIF orientation, fully decoded; see `to_rgb`.

    JPEGs of more than 40 million pixels come at a half, a quarter or an eighth of their size. An
    EXIF block that can't be read is passed over: the picture is taken as it lies. With `content`,
    the encoded image, the path only names it.

    Raises:
        EdjeError: the file is missing or not a whole image, or has more pixels than are decoded.
    """
    try:
        return decoded(path, content)
    except Exception as error:  # decoders raise anything, from OSError to struct.error
        raise EdjeError(
            f"image {path} is not readable ({brief(error)}). Mend or replace it, "
            "or leave such images out with data.bad_images=skip."
        ) from error


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of an encoded image by its header alone, as it lies.

    Raises:
        Exception: as `decoded`.
    """
    reads_heif()
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def problem_of(path: str | Path) -> str | None:
    """Why `open_image` can't read a file; None if it can. JPEGs are decoded at an eighth."""
    try:
        decoded(path, draft=True)
    except Exception as error:  # as in open_image
        return brief(error)
    return None


def decoded(path: str | Path, content: bytes | None = None, *, draft: bool = False) -> Image.Image:
    """What `open_image` gives, or with `draft` where it is a JPEG one of an eighth of its size.

    That one is made faster of the same bytes, all of them: it fails where the whole one would.

    Raises:
        Exception: of any type, of whatever kind of decoder; `brief` says it in words.
    """
    # Its bytes, not its name: PIL maps a named TIFF with the sides that it has once turned.
    content = Path(path).read_bytes() if content is None else content
    with _opened(content) as image:
        if isinstance(image, JpegImageFile):
            factor = 8 if draft else _reduction(image.width * image.height)
            image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
        return upright(image, path)


def upright(image: Image.Image, name: str | Path) -> Image.Image:
    """An opened image as RGB, turned as its EXIF block says; `name` is for the log.

    Raises:
        Exception: as `decoded`.
    """
    image.load()
    try:
        turn = orientation(image)
    except Exception as error:  # its parsers raise anything, and the pixels are sound
        log.info("%s: its EXIF block is passed over (%s)", name, brief(error))
        turn = None
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _opened(content: bytes) -> Image.Image:
    """The image, its header read. PIL's own guard would refuse a JPEG before it is reduced."""
    if not content:
        raise ValueError("the file is empty")
    if content.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(io.BytesIO(content))
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS and not reads_heif():
        raise ValueError("a HEIF picture: pip install 'edje[heif]'")
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width} × {image.height} pixels, more than the {MOST_PIXELS:,} that are decoded"
        )
    return image


@cache
def reads_heif() -> bool:
    """Whether PIL can read what telephones write, by the package that teaches it."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _reduction(pixels: int) -> int:
    return next((factor for factor in (1, 2, 4) if pixels <= LARGE_JPEG * factor**2), 8)


def brief(error: Exception) -> str:
    """What a decoder's error says."""
    if isinstance(error, UnidentifiedImageError):  # whose own words name a buffer in memory
        return "no image of a known format"
    return str(error) or type(error).__name__
