"""Image files made on the spot, tars of them, and what a table of pairs says of them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edje.data.mixture.pairs import PairTable

COLOURS = {"a.jpg": (200, 0, 0), "b.jpg": (0, 200, 0), "c.jpg": (0, 0, 200)}


def jpeg(colour: tuple[int, int, int], side: int = 8) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(content, "JPEG")
    return content.getvalue()


def write_images(folder: Path, names: list[str] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or list(COLOURS):
        (folder / name).write_bytes(jpeg(COLOURS.get(name, (90, 90, 90))))


def write_tar(path: Path, members: dict[str, bytes | str], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def rows(table: PairTable) -> list[tuple[str, tuple[str, ...]]]:
    return [(pair.file, pair.captions) for pair in (table[row] for row in range(len(table)))]


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """Random pixels, always the same."""
    values = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def make_picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A file of random pixels, no two alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_tar(path: Path, members: Mapping[str, int]) -> Path:
    """A tar of pictures of random pixels, by name and seed, with a text beside each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, seed in members.items():
            picture = make_picture(path.parent / f"of {path.stem}" / name, seed)
            tar.add(picture, name)
            tar.addfile(tarfile.TarInfo(f"{name}.txt"))
    return path
