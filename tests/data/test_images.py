"""Claims about opening and checking image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.data.images import check_images, images_digest, open_image
from edje.errors import EdjeError
from edje.records import CaptionRecord, ImageRecord, RetrievalSplit


def make_split(*paths: Path) -> RetrievalSplit:
    return RetrievalSplit(
        dataset="tiny",
        name="train",
        images=tuple(ImageRecord(path.name, str(path)) for path in paths),
        captions=tuple(CaptionRecord(f"{path.name}#0", path.name, "dog") for path in paths),
        skipped=("gone.jpg",),
    )


def save_photo(path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_every_mode_opens_as_rgb(tmp_path: Path) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (5, 3)).save(path)
        image = open_image(path)
        assert (image.mode, image.size) == ("RGB", (5, 3)), mode


def test_a_palette_with_transparency_opens_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert open_image(tmp_path / "a.png").mode == "RGB"


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0x8000, np.uint16)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    photo = save_photo(tmp_path / "cut.jpg")
    photo.write_bytes(photo.read_bytes()[:-500])
    with pytest.raises(EdjeError, match=r"cut\.jpg is not readable \(.*truncated"):
        open_image(photo)
    with pytest.raises(EdjeError, match=r"none\.jpg is not readable"):
        open_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_checking_finds_broken_files_under_both_policies(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    good, bad = (save_photo(tmp_path / f"{name}.{suffix}") for name in ("good", "bad"))
    content = bad.read_bytes()
    bad.write_bytes({"cut": content[: len(content) // 2], "text": b"html", "empty": b""}[damage])
    split = make_split(bad, good)
    with pytest.raises(EdjeError, match=r"1 of 2 images .* such as bad\."):
        check_images(split, "error")
    kept = check_images(split, "skip")
    assert [image.image_id for image in kept.images] == [good.name]
    assert [caption.image_id for caption in kept.captions] == [good.name]
    assert kept.skipped == (bad.name, "gone.jpg")


def test_a_sound_split_passes_unchanged_and_progress_counts_it(tmp_path: Path) -> None:
    split = make_split(save_photo(tmp_path / "a.jpg"), save_photo(tmp_path / "b.jpg"))
    steps: list[int] = []
    assert check_images(split, "error", progress=steps.append) is split
    assert sum(steps) == 2


def test_skipping_every_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(EdjeError, match="1 of 1 images"):
        check_images(make_split(tmp_path / "a.jpg"), "skip")


def test_the_digest_notices_other_files_under_the_same_names(tmp_path: Path) -> None:
    split = make_split(save_photo(tmp_path / "a.png"))
    before = images_digest(split)
    assert images_digest(split) == before
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert images_digest(split) != before
    (tmp_path / "a.png").unlink()
    with pytest.raises(EdjeError, match=r"a\.png is not readable"):
        images_digest(split)
