"""What is in an index, to be compared."""

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from edje import ImageIndex

COLUMNS = ("id", "path", "hash", "width", "height", "problem", "embedding", "cell")


def contents(index: ImageIndex) -> dict[str, dict]:
    """All that doesn't depend on when it was added, by id."""
    index.refresh()
    assert index._table is not None
    found = {}
    for batch in index._table.scan(COLUMNS):
        for row in batch.to_pylist():
            assert row["id"] not in found
            del row["_rowid"]
            found[row["id"]] = row
    return dict(sorted(found.items()))


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
