"""Claims about telling image files apart without reading them whole."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.data.image_digest import BLOCK_BYTES, images_digest
from edje.errors import EdjeError
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit


def make_split(*paths: Path) -> RetrievalSplit:
    images = tuple(ImageRecord(path.name, str(path)) for path in paths)
    captions = tuple(CaptionRecord(f"{path.name}#0", path.name, "dog") for path in paths)
    return RetrievalSplit("tiny", "train", images, captions)


@pytest.mark.parametrize("side", [8, 300])  # of one block, and of more than are read
def test_every_picture_replaced_by_one_of_equal_size_is_noticed(tmp_path: Path, side: int) -> None:
    def save(seed: int) -> None:
        for number in range(3):
            pixels = np.random.default_rng((seed, number)).integers(256, size=(side, side, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.bmp")

    save(0)
    split = make_split(*sorted(tmp_path.iterdir()))
    times = {path: path.stat() for path in tmp_path.iterdir()}
    before = images_digest(split)
    assert images_digest(split) == before
    save(1)
    for path, status in times.items():
        assert path.stat().st_size == status.st_size
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` leaves it
    assert images_digest(split) != before
    save(0)
    assert images_digest(split) == before  # of the content, not of its times


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_one_byte_of_a_large_file_is_noticed_at_its_head_middle_and_tail(
    tmp_path: Path, place: str
) -> None:
    path = tmp_path / "a.bmp"
    content = bytearray(50 * BLOCK_BYTES + 123)
    path.write_bytes(content)
    before = images_digest(make_split(path))
    step = (len(content) - BLOCK_BYTES) / 7
    content[{"head": 0, "middle": int(3 * step) + 1, "tail": -1}[place]] = 1
    path.write_bytes(content)
    assert images_digest(make_split(path)) != before


def test_ids_and_sizes_count_and_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, second):
        path.write_bytes(b"same")
    assert images_digest(make_split(first)) != images_digest(make_split(second))
    second.unlink()
    with pytest.raises(EdjeError, match=r"b\.png is not readable"):
        images_digest(make_split(first, second))


def test_the_shares_of_several_threads_are_put_together_in_order(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number:03d}.png").write_bytes(b"%03d" % number)
    split = make_split(*sorted(tmp_path.iterdir()))
    before = images_digest(split)
    assert {images_digest(split) for _ in range(3)} == {before}
    for number in (0, 255, 256, 511, 512, 599):  # the first and last of each share
        path = tmp_path / f"{number:03d}.png"
        path.write_bytes(b"xyz")
        assert images_digest(split) != before, number
        path.write_bytes(b"%03d" % number)
