"""Pictures in a program's hands: paths, encoded bytes, PIL images, arrays of pixels."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edje.errors import EdjeError
from edje.images.decoder import brief, decoded, upright
from edje.images.pixels import to_rgb

Picture = str | Path | bytes | bytearray | Image.Image | np.ndarray
EXPECTED = (
    "a path (str or Path), the bytes of a picture file, a PIL image, or a uint8 array of "
    "shape (height, width), (height, width, 3) or (height, width, 4)"
)


def rgb_of(picture: Picture) -> Image.Image:
    """Any picture as upright eight-bit RGB, read by the one decoder; the input isn't changed.

    Raises:
        EdjeError: it can't be read, or is not a picture.
    """
    try:
        if isinstance(picture, str | Path):
            return decoded(Path(picture).expanduser())
        if isinstance(picture, bytes | bytearray):
            return decoded(name_of(picture), bytes(picture))
        if isinstance(picture, Image.Image):
            return upright(picture, name_of(picture))
        if isinstance(picture, np.ndarray):
            return _of_array(picture)
    except EdjeError:
        raise
    except Exception as error:  # decoders raise anything
        raise EdjeError(
            f"{name_of(picture)} can't be read as a picture ({brief(error)}). Fix or replace it, "
            "or leave it out."
        ) from error
    raise EdjeError(f"a {type(picture).__name__} is not a picture; expected {EXPECTED}.")


def same_picture(picture: Picture) -> Hashable:
    """A key that is equal if the same picture is given twice: as path, bytes or object."""
    if isinstance(picture, str | Path):
        return str(picture)
    if isinstance(picture, bytes):
        return picture
    return id(picture)


def name_of(picture: Any) -> str:
    """The name of a picture in messages."""
    if isinstance(picture, str | Path):
        return f"{picture}"
    if isinstance(picture, bytes | bytearray):
        return f"a picture of {len(picture)} bytes"
    if isinstance(picture, Image.Image):
        file = getattr(picture, "filename", "")
        return str(file) if file else f"an image of {picture.width} × {picture.height} pixels"
    return f"an array of shape {getattr(picture, 'shape', '?')}"


def is_unicode(name: str) -> bool:
    """Whether a name can be written as UTF-8; file systems allow, and JSON keeps, others."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_array(pixels: np.ndarray) -> Image.Image:
    shape = pixels.shape
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if pixels.dtype != np.uint8 or not fits or 0 in shape:
        raise EdjeError(
            f"an array of {pixels.dtype} of shape {shape} is not a picture; expected {EXPECTED}."
        )
    return to_rgb(Image.fromarray(pixels[..., 0] if shape[2:] == (1,) else pixels))
