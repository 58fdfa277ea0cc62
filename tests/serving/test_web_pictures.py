"""Claims about the pictures that a browser gets by their ids."""

import io
import tarfile
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from edje import ImageIndex, Reranker
from edje.serving.web_pictures import WebPictures
from tests.serving.served import ODD

COLOURS = {"red.png": (255, 0, 0), "deep/é.png": (0, 0, 255)}


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2000, 1000), colour).save(file, "PNG")
    return file.getvalue()


def tar_of(path: Path, pictures: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in pictures.items():
            member = tarfile.TarInfo(unicodedata.normalize("NFD", name))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def parquet_of(path: Path, pictures: dict[str, bytes]) -> Path:
    rows = {"id": list(pictures), "image": list(pictures.values())}
    pq.write_table(pa.table(rows), path, row_group_size=1)
    return path


def shown(pictures: WebPictures, image_id: str, size: str) -> tuple[tuple[int, int], list[int]]:
    """The sides and the colour of a picture, whose channels are rounded."""
    made = pictures.jpeg(image_id, size)
    assert made is not None, image_id
    with Image.open(io.BytesIO(made)) as image:
        return image.size, [255 * round(value / 255) for value in image.getpixel((50, 50))]


@pytest.mark.parametrize("make", [tar_of, parquet_of])
def test_pictures_of_a_file_of_many_are_shown_small_and_large(
    shapes: Reranker, tmp_path: Path, make: type
) -> None:
    ending = make.__name__.removesuffix("_of")
    given = {name: png(colour) for name, colour in COLOURS.items()}
    shard = make(tmp_path / f"one.{ending}", given)
    index = ImageIndex.open(tmp_path / "own.edje", shapes)
    index.add(shard, prefix="a/b")
    assert len(index) == 2
    pictures = WebPictures(index.folder)
    for name, colour in COLOURS.items():
        for size, sides in (("thumb", (400, 200)), ("large", (1600, 800))):
            assert shown(pictures, f"a/b/one/{name}", size) == (sides, list(colour))
    make(shard, {"red.png": png((0, 255, 0))})  # without telling the index
    assert shown(pictures, "a/b/one/red.png", "thumb")[1] == [0, 255, 0]
    assert pictures.jpeg("a/b/one/deep/é.png", "thumb") is None
    shard.unlink()
    assert pictures.jpeg("a/b/one/red.png", "thumb") is None


def test_a_picture_is_found_by_either_form_of_unicode(index: ImageIndex) -> None:
    name = next(one for one in ODD if one.startswith("é"))
    pictures = WebPictures(index.folder)
    composed, other = (
        pictures.jpeg(unicodedata.normalize(form, name), "thumb") for form in ("NFC", "NFD")
    )
    assert composed is not None and composed == other
