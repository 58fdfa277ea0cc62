"""The pixels of any image as eight-bit RGB, from every way they may be stored."""

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

WHITE = (255, 255, 255, 255)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_ORIENTATION = 0x0112  # tag of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image (the first frame of several) as eight-bit RGB.

    Transparency becomes white. Samples of 10 to 16 bits keep their highest eight bits. 32-bit
    integers and floats, which define no white, are scaled from the image's own smallest value
    (black) to its largest (white); values that are not numbers become black. A TIFF whose zero is
    white has them the other way round.

    Raises:
        ValueError: its colours can't be converted to RGB, or none of its floats is finite.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit_grey(image)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # PIL has no direct way
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return image.convert("RGB")


def orientation(image: Image.Image) -> Image.Transpose | None:
    """The rotation that makes an opened image upright, by its EXIF block; None if it is upright.

    Raises:
        Exception: the block can't be read; its parsers raise anything.
    """
    return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if _tiff_tag(image, _PHOTOMETRIC, 1) == 0:  # zero is white: PIL inverts eight bits only
        samples = -samples if image.mode == "F" else ~samples
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = min(_tiff_tag(image, _BITS_PER_SAMPLE, 16), 16)
        grey = (samples >> (bits - 8)).astype(np.uint8)
    else:
        if image.mode == "I" and _tiff_tag(image, _SAMPLE_FORMAT, 2) == 1:
            samples = samples.view(np.uint32)  # PIL has no such mode
        grey = _own_range(samples.astype(np.float64))
    result = Image.fromarray(grey)
    if "transparency" in image.info:  # the grey value that is transparent
        opaque = samples != image.info["transparency"]
        result.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return result


def _own_range(samples: Float64[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    finite = samples[np.isfinite(samples)]
    if not finite.size:
        raise ValueError("none of its pixels is a finite number")
    least, greatest = finite.min(), finite.max()
    samples = np.nan_to_num(samples, nan=least, posinf=greatest, neginf=least)
    return np.rint(255 * ((samples - least) / ((greatest - least) or 1))).astype(np.uint8)


def _tiff_tag(image: Image.Image, tag: int, missing: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, missing)
    return int(value[0] if isinstance(value, tuple) else value)
