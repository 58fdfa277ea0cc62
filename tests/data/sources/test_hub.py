"""Claims about data sets read through `datasets`, saved on the spot."""

import io
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from edje.data.image_digest import images_digest
from edje.data.images import check_images
from edje.data.sources.hub import HubSource
from edje.errors import EdjeError
from edje.images.decoder import open_image


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes to the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "prepared")
    datasets.disable_progress_bars()


def encoded(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def rows(*seeds: int, **columns: list[Any]) -> datasets.Dataset:
    """Images of the seeds, captions "dog <seed>" unless others are given."""
    content = {"image": [{"bytes": encoded(seed), "path": None} for seed in seeds]}
    content |= {"caption": [f"dog {seed}" for seed in seeds]} | columns
    data = datasets.Dataset.from_dict(content)
    return data.cast_column("image", datasets.Image())


def save(folder: Path, **parts: datasets.Dataset) -> Path:
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


def source(folder: Path, **more: Any) -> HubSource:
    settings: dict[str, Any] = {"caption_columns": ["caption"], "split_names": {"restval": "train"}}
    settings |= {"cache_dir": str(folder.parent / "cache")} | more
    return HubSource(name="tiny", dataset=str(folder), **settings)


def test_a_saved_data_set_is_a_split_of_image_files(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", train=rows(1), test=rows(3, 2))
    assert source(folder).splits() == ["test", "train"]
    split = source(folder).read("test")
    assert [image.image_id for image in split.images] == ["test-00000000", "test-00000001"]
    assert [caption.text for caption in split.captions] == ["dog 3", "dog 2"]
    assert [Path(image.path).read_bytes() for image in split.images] == [encoded(3), encoded(2)]
    assert check_images(split, "error") is split
    assert open_image(split.images[0].path).size == (8, 8)


def test_files_of_the_hub_are_loaded_like_a_saved_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    rows(5, 6).to_parquet(folder / "test.parquet")
    split = source(folder).read("test")
    assert [Path(image.path).read_bytes() for image in split.images] == [encoded(5), encoded(6)]
    assert source(folder).read("test") == split


def test_one_data_set_without_splits_is_its_own_split_or_train(tmp_path: Path) -> None:
    rows(1).save_to_disk(tmp_path / "saved")
    assert source(tmp_path / "saved").splits() == ["train"]


def test_columns_have_names_of_your_choice(tmp_path: Path) -> None:
    data = rows(1, 2, 3, 4, file=["b.jpg", "a.jpg", "b.jpg", "c.jpg"])
    data = data.add_column("text", [["one", "two"], ["three"], None, ["four"]])
    data = data.add_column("more", ["five", " ", "six", None])
    data = data.add_column("part", ["train", "test", "train", "restval"]).rename_column(
        "image", "photo"
    )
    mine = source(
        save(tmp_path / "saved", test=data),
        bad_images="skip",
        image_column="photo",
        caption_columns=["text", "more"],
        id_column="file",
        split_column="part",
    )
    assert mine.splits() == ["test", "train"]
    train = mine.read("train")
    assert [image.image_id for image in train.images] == ["b.jpg", "c.jpg"]
    assert [caption.text for caption in train.captions] == ["one", "two", "five", "six", "four"]
    assert Path(train.images[0].path).read_bytes() == encoded(1)
    assert [caption.text for caption in mine.read("test").captions] == ["three"]


def test_only_the_split_that_is_read_is_written_and_only_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", train=rows(1), test=rows(2, 3))
    split = source(folder).read("test")
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(Path(image.path) for image in split.images)
    times = {path: path.stat().st_mtime_ns for path in files}
    Path(split.images[0].path).unlink()  # as an interrupted export leaves it
    again = source(folder).read("test")
    assert again == split and images_digest(again) == images_digest(split)
    kept = Path(split.images[1].path)
    assert [path for path in files if path.stat().st_mtime_ns == times[path]] == [kept]


def test_other_data_under_the_same_name_has_other_files(tmp_path: Path) -> None:
    first = source(save(tmp_path / "saved", test=rows(1))).read("test")
    second = source(save(tmp_path / "saved", test=rows(2))).read("test")
    assert Path(first.images[0].path).read_bytes() == encoded(1)
    assert Path(second.images[0].path).read_bytes() == encoded(2)


def test_images_named_by_their_path_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(1, "JPEG"))
    data = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.jpg")], "caption": ["dog"]})
    split = source(save(tmp_path / "saved", test=data)).read("test")
    assert Path(split.images[0].path).read_bytes() == encoded(1, "JPEG")


def test_a_picture_that_was_replaced_at_its_path_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(1))
    data = datasets.Dataset.from_dict({"image": [str(path)], "caption": ["dog"]})
    folder = save(tmp_path / "saved", test=data)
    for seed in (1, 2, 3):
        path.write_bytes(encoded(seed))
        os.utime(path, (1000 - seed, 1000 - seed))  # an older file may take its place
        copy = Path(source(folder).read("test").images[0].path)
        assert copy.read_bytes() == encoded(seed)
    written = copy.stat().st_ctime_ns
    assert source(folder).read("test").images[0].path == str(copy)
    assert copy.stat().st_ctime_ns == written
    path.unlink()
    assert source(folder).read("test").images[0].path == str(copy)


def test_an_empty_split_hinders_no_other(tmp_path: Path) -> None:
    other = rows(2)
    empty = {"a": other.select([]), "b": other.filter(lambda row: False)}  # no file, no row
    try:
        saved = save(tmp_path / "saved", train=rows(1), **empty)
    except ZeroDivisionError:
        pytest.skip("this version of datasets saves no empty split")
    mine = source(saved)
    assert len(mine.read("train").images) == 1
    with pytest.raises(EdjeError, match=r"no split 'val'; it has train"):
        mine.read("val")


def test_class_labels_are_names_of_splits(tmp_path: Path) -> None:
    label = datasets.ClassLabel(names=["train", "test"])
    data = rows(1, 2, part=[0, 1]).cast_column("part", label)
    mine = source(save(tmp_path / "saved", all=data), split_column="part")
    assert mine.splits() == ["test", "train"]
    data = rows(1, 2, part=[0, -1]).cast_column("part", label)
    with pytest.raises(EdjeError, match="row 1: the column part is empty"):
        source(save(tmp_path / "other", all=data), split_column="part").splits()


def test_rows_without_image_or_caption_follow_the_policy(tmp_path: Path) -> None:
    data = rows(1, 2, 3, 4, caption=["dog", None, "cat", "bird"])
    content = data.cast_column("image", datasets.Image(decode=False))[:]
    content["image"][2] = None
    content["image"][3] = {"bytes": b"no image", "path": None}
    data = datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())
    folder = save(tmp_path / "saved", test=data)
    with pytest.raises(EdjeError, match=r"1 of 4 images .* have no file .*test-00000002") as told:
        source(folder).read("test")
    assert "Check data.image_column, or leave them out" in str(told.value)  # it has no data.root
    split = source(folder, bad_images="skip").read("test")
    assert split.skipped == ("test-00000001", "test-00000002")
    kept = check_images(split, "skip")
    assert [image.image_id for image in kept.images] == ["test-00000000"]


def test_known_sizes_are_checked_before_an_image_is_written(tmp_path: Path) -> None:
    mine = source(save(tmp_path / "saved", test=rows(1)), split_sizes={"test": 1000})
    with pytest.raises(EdjeError, match="has 1 images, expected 1,000"):
        mine.read("test")
    assert not (tmp_path / "cache").exists()


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", train=rows(1, key=[7]), test=rows(1, key=[7]))
    with pytest.raises(EdjeError, match=r"two splits .* 7 in test and train"):
        source(folder, id_column="key").read("test")


def test_ids_that_are_spellings_of_one_path_are_one_image_and_urls_stay(tmp_path: Path) -> None:
    url = "https://a.org//x.jpg"
    folder = save(tmp_path / "saved", test=rows(1, 2, 3, key=["a.jpg", "./a.jpg", url]))
    split = source(folder, id_column="key").read("test")
    assert [image.image_id for image in split.images] == ["a.jpg", url]
    folder = save(tmp_path / "two", train=rows(1, key=["a.jpg"]), test=rows(1, key=["./a.jpg"]))
    with pytest.raises(EdjeError, match=r"two splits .* a\.jpg in test and train"):
        source(folder, id_column="key").read("test")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image_column": "img"}, r"no column 'img'; it has image, caption, size\. Set .*image_c"),
        ({"caption_columns": ["text"]}, r"no column 'text'.*Set data\.caption_columns"),
        ({"id_column": "key"}, r"no column 'key'.*Set data\.id_column"),
        ({"split_column": "part"}, r"no column 'part'.*Set data\.split_column"),
        ({"caption_columns": ["size"]}, r"row 0: 'size' holds '3', expected a text"),
        ({"image_column": "size"}, r"'size' holds no images .*Set data\.image_column"),
        ({"id_column": "size"}, "row 1: the column size is empty"),
        ({"split": "val"}, r"no split 'val'; it has test \(2 images\)"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    mine = source(save(tmp_path / "saved", test=rows(1, 2, size=[3, None])), **more)
    with pytest.raises(EdjeError, match=message):
        mine.read(mine.split)


@pytest.mark.parametrize("dataset", ["nobody/nothing", "folder"])
def test_a_data_set_that_can_not_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdjeError, match=f"can't load the data set {dataset} .*data.subset"):
        HubSource(name="tiny", dataset=dataset, caption_columns=["caption"]).splits()


def test_a_cache_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", test=rows(1))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(EdjeError, match=r"can't write its images below .*cache .*cache_dir="):
        source(folder).read("test")
