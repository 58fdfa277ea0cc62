"""Images so thin that scaling their shorter side up would exhaust the memory."""

from PIL import Image

MOST_ASPECT = 50  # of the part that is kept; it takes as many times the tower's square in memory


def without_far_ends(image: Image.Image) -> Image.Image:
    """The centre of a very long image, about 50 times as long as wide; any other is unchanged.

    For towers that scale the shorter side to theirs and then keep the square in the centre: they
    see the same without the ends, whose pixels would be enlarged too, to gigabytes.
    """
    shorter, longer = sorted(image.size)
    cut = (longer - MOST_ASPECT * shorter) // 2  # the same at both ends, so the centre stays
    if cut <= 0:
        return image
    left, top = (cut if side == longer else 0 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))
