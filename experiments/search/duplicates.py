"""How close are near duplicates, and how close are different photographs?

python experiments/search/duplicates.py <reranker> <folder of images> <how many>
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from edje import Reranker
from edje.index.hits import NEAR_DUPLICATE

THRESHOLDS = (0.7, NEAR_DUPLICATE, 0.9)
COPIED = 100  # number of photographs with copies


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG compression at a quality."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return Image.open(content)


def cropped(picture: Image.Image) -> Image.Image:
    """The picture without a twentieth on each side."""
    width, height = picture.size
    return picture.crop((width // 20, height // 20, width - width // 20, height - height // 20))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 75": lambda picture: jpeg(picture, 75),
    "JPEG of quality 50": lambda picture: jpeg(picture, 50),
    "JPEG of quality 20": lambda picture: jpeg(picture, 20),
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "5% cut off each side": cropped,
    "20% brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main(name: str, folder: str, count: str) -> None:
    """Print the shares above each threshold."""
    reranker = Reranker.from_pretrained(name)
    paths = sorted(Path(folder).iterdir())[: int(count)]
    vectors = tokens_of(reranker, paths)
    similar = vectors @ vectors.T
    nearest = similar.fill_diagonal_(-1).max(dim=1).values
    say(f"nearest other of {len(paths)}: median {nearest.median():.3f}, most {nearest.max():.3f}")
    say(shown("another photograph", nearest))
    step = len(paths) // COPIED
    for change, made in CHANGES.items():
        copies = tokens_of(reranker, [made(Image.open(path)) for path in paths[::step]])
        say(shown(change, (copies * vectors[::step]).sum(dim=1)))


def tokens_of(reranker: Reranker, pictures: list) -> Tensor:
    """All tokens of each picture as one vector of length 1."""
    tokens = reranker.encode(pictures, show_progress_bar=False).tokens
    return torch.nn.functional.normalize(tokens.float().flatten(1), dim=1)


def shown(what: str, cosines: Tensor) -> str:
    """A line: the share of cosines from each threshold on."""
    shares = (
        f"{100 * (cosines >= least).float().mean():.0f}% from {least}" for least in THRESHOLDS
    )
    return f"{what}: {', '.join(shares)}"


def say(line: object) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
