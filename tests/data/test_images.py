"""Claims about opening and checking image files."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edje
from edje.data.images import check_images
from edje.errors import EdjeError
from edje.images.decoder import open_image
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


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_unreadable_exif_block_costs_neither_the_picture_nor_the_run(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (32, 16), (0, 0, 255)).save(path, exif=b"Exif\0\0\0\x08\0\2\1\x12")
    image = open_image(path)
    assert image.size == (32, 16)
    assert np.abs(np.subtract(image.getpixel((0, 0)), (0, 0, 255))).max() <= 2  # JPEG rounds
    split = make_split(path)
    assert check_images(split, "error") is split


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_checking_passes_can_be_opened_and_nothing_else(
    tmp_path: Path, mode: str, progressive: bool
) -> None:
    generator = np.random.default_rng(0)
    photo, encoded = Image.effect_noise((97, 41), 40).convert(mode), BytesIO()
    photo.save(encoded, "JPEG", progressive=progressive)
    sound = encoded.getvalue()
    damaged = [sound, *(sound[:-cut] for cut in (1, 2, 3, 10, len(sound) // 2, len(sound) - 20))]
    for _ in range(60):
        bytes_ = bytearray(sound)
        for place in generator.integers(len(sound), size=3):
            bytes_[place] = generator.integers(256)
        damaged.append(bytes(bytes_))
    opens = []
    for number, content in enumerate(damaged):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        try:
            open_image(path)
        except EdjeError:
            opens.append(False)
        else:
            opens.append(True)
    assert opens[0] and 1 < sum(opens) < len(opens)
    kept = check_images(make_split(*(tmp_path / f"{n}.jpg" for n in range(len(opens)))), "skip")
    passed = {image.image_id for image in kept.images}
    assert [f"{number}.jpg" in passed for number in range(len(opens))] == opens


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


def test_nothing_else_opens_an_image_file() -> None:
    package = Path(edje.__file__).parent
    openers = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert openers == [package / "images" / "decoder.py"]
