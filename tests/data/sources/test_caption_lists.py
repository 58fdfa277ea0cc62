"""Claims about annotations as BLIP and ALBEF write them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edje.data.sources.karpathy import KarpathySource
from edje.data.sources.source import split_digest
from edje.errors import EdjeError
from tests.tiny.shared import FLICKR8K

CONF = Path(__file__).parents[3] / "conf" / "data"
LISTS = {split: f"{split}.json" for split in ("train", "val", "test")}


def write(root: Path, lists: dict[str, Any], *paths: str) -> None:
    """Write each list under its file name, and an empty file for every image path."""
    for file, content in lists.items():
        (root / file).write_text(json.dumps(content))
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def source(root: Path, **more: Any) -> KarpathySource:
    settings: dict[str, Any] = {
        "annotations": "dataset.json",
        "images": ["images", "."],
        "caption_lists": LISTS,
    }
    return KarpathySource(name="tiny", root=str(root), **(settings | more))


def from_option(name: str, root: Path, **more: Any) -> KarpathySource:
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del settings["_target_"]
    return KarpathySource(**(settings | {"root": str(root)} | more))


def test_entries_of_one_image_are_its_captions(tmp_path: Path) -> None:
    entries = [
        {"image": "b.jpg", "caption": "one", "image_id": "x_2"},
        {"image": "sub/a.jpg", "caption": "two", "image_id": "x_1"},
        {"image": "b.jpg", "caption": "three", "image_id": "x_2"},
    ]
    write(tmp_path, {"train.json": entries}, "images/b.jpg", "images/sub/a.jpg")
    split = source(tmp_path).read("train")
    assert [image.image_id for image in split.images] == ["a.jpg", "b.jpg"]
    assert [caption.text for caption in split.captions] == ["two", "one", "three"]


def test_both_formats_give_the_same_split(tmp_path: Path) -> None:
    karpathy, lists = tmp_path / "karpathy", tmp_path / "lists"
    texts = {"COCO_val2014_7.jpg": ["a dog", "a brown dog"], "COCO_val2014_3.jpg": ["a cat"]}
    images = [
        {
            "filename": name,
            "filepath": "val2014",
            "split": "test",
            "sentences": [{"raw": text} for text in captions],
        }
        for name, captions in texts.items()
    ]
    entries = [{"image": f"val2014/{name}", "caption": texts[name]} for name in texts]
    for root, content in ((karpathy, {"images": images}), (lists, entries)):
        root.mkdir()
        file = "dataset.json" if root is karpathy else "test.json"
        write(root, {file: content}, *(f"val2014/{name}" for name in texts))
    first, second = (source(root).read("test") for root in (karpathy, lists))
    assert split_digest(first) == split_digest(second)
    assert first.captions == second.captions


@pytest.mark.parametrize(
    "folder", ["val2014", "images/val2014", "images", "."], ids=["nested", "both", "images", "flat"]
)
def test_coco_lists_find_their_images_in_every_layout(tmp_path: Path, folder: str) -> None:
    entries = [{"image": "val2014/COCO_val2014_7.jpg", "caption": ["a dog"], "image_id": 7}]
    write(tmp_path, {"coco_karpathy_test.json": entries}, f"{folder}/COCO_val2014_7.jpg")
    coco = from_option("coco", tmp_path, split_sizes=None, caption_counts=None)
    (image,) = coco.read("test").images
    assert Path(image.path) == tmp_path / folder / "COCO_val2014_7.jpg"


def test_the_option_finds_flickr30k_lists_of_the_published_size(tmp_path: Path) -> None:
    names = [f"flickr30k-images/{number}.jpg" for number in range(1000)]
    entries = [{"image": name, "caption": [f"caption {k}" for k in range(5)]} for name in names]
    write(tmp_path, {"flickr30k_test.json": entries}, *names)
    split = from_option("flickr30k", tmp_path).read("test")
    assert (len(split.images), len(split.captions)) == (1000, 5000)
    write(tmp_path, {"flickr30k_test.json": entries[1:]})
    with pytest.raises(EdjeError, match=r"flickr30k_test\.json has 999 images, expected 1,000"):
        from_option("flickr30k", tmp_path).read("test")


def test_karpathys_json_goes_before_the_lists(tmp_path: Path) -> None:
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "his"}]}
    lists = {"test.json": [{"image": "a.jpg", "caption": "theirs"}]}
    write(tmp_path, lists, "a.jpg")
    assert source(tmp_path).read("test").captions[0].text == "theirs"
    write(tmp_path, {"dataset.json": {"images": [image]}})
    assert source(tmp_path).read("test").captions[0].text == "his"


def test_only_the_lists_that_are_there_are_splits(tmp_path: Path) -> None:
    write(tmp_path, {"val.json": [{"image": "a.jpg", "caption": "dog"}]}, "a.jpg")
    assert source(tmp_path).splits() == ["val"]
    with pytest.raises(EdjeError, match=r"no split 'test'; it has val \(1 images\)"):
        source(tmp_path).read("test")


def test_without_any_file_all_are_named(tmp_path: Path) -> None:
    match = r"no annotations at .*dataset\.json, nor any of train\.json, val\.json, test\.json"
    with pytest.raises(EdjeError, match=match):
        source(tmp_path).splits()


def test_an_image_in_two_lists_is_refused(tmp_path: Path) -> None:
    entries = [{"image": "a.jpg", "caption": "dog"}]
    write(tmp_path, {"train.json": entries, "test.json": entries}, "a.jpg")
    with pytest.raises(EdjeError, match=r"two splits .*a\.jpg in test and train"):
        source(tmp_path).read("test")


def test_spellings_of_one_path_are_one_image(tmp_path: Path) -> None:
    entries = [{"image": "x/a.jpg", "caption": "dog"}, {"image": "x//./a.jpg", "caption": "cat"}]
    write(tmp_path, {"val.json": entries}, "images/x/a.jpg")
    split = source(tmp_path).read("val")
    assert [caption.caption_id for caption in split.captions] == ["a.jpg#0", "a.jpg#1"]
    write(tmp_path, {"test.json": [{"image": "./x/a.jpg", "caption": "cow"}]})
    with pytest.raises(EdjeError, match=r"two splits .*a\.jpg in test and val"):
        source(tmp_path).read("test")


def test_equal_names_in_two_folders_are_two_images_with_paths_as_ids(tmp_path: Path) -> None:
    lists = {
        f"{split}.json": [{"image": f"{folder}/1.jpg", "caption": "dog"} for folder in folders]
        for split, folders in (("train", "ab"), ("test", "c"))
    }
    write(tmp_path, lists, "images/a/1.jpg", "images/b/1.jpg", "images/c/1.jpg")
    with pytest.raises(EdjeError, match=r"entry 1: 1\.jpg stands for .*data\.image_ids=path"):
        source(tmp_path).splits()
    write(tmp_path, {"train.json": lists["train.json"][:1]})
    with pytest.raises(EdjeError, match=r"1\.jpg stands for images/a/1\.jpg and for images/c/1"):
        source(tmp_path).splits()
    write(tmp_path, lists)
    images = source(tmp_path, image_ids="path").read("train").images
    assert [image.image_id for image in images] == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "not a list"),
        (["a.jpg"], "entry 0 is 'a.jpg'"),
        ([{"caption": "dog"}], "entry 0 has no 'image'"),
        ([{"image": "", "caption": "dog"}], "entry 0 has no 'image'"),
        ([{"image": "a.jpg"}], r"entry 0 \(a\.jpg\) has no 'caption' of text"),
        ([{"image": "a.jpg", "caption": "dog", "image_id": [7]}], r"has image_id \[7\]"),
        (
            [{"image": "a.jpg", "caption": "dog"}, {"image": "b/a.jpg", "caption": "cat"}],
            r"entry 1: a\.jpg stands for a\.jpg and for b/a\.jpg",
        ),
        (
            [
                {"image": "a.jpg", "caption": "dog", "image_id": 7},
                {"image": "b.jpg", "caption": "cat", "image_id": 7},
            ],
            r"entry 1: 7 stands for a\.jpg and for b\.jpg",
        ),
        (
            [
                {"image": "a.jpg", "caption": "dog", "image_id": 7},
                {"image": "a.jpg", "caption": "cat", "image_id": 8},
            ],
            r"entry 1: a\.jpg stands for 7 and for 8",
        ),
    ],
)
def test_a_wrong_list_is_refused_with_its_entry(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, {"test.json": content})
    with pytest.raises(EdjeError, match=rf"test\.json is not a caption list: .*{message}"):
        source(tmp_path).splits()


def test_a_list_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text("[{")
    with pytest.raises(EdjeError, match=r"test\.json is not readable as JSON"):
        source(tmp_path).splits()


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="the photographs are not here")
def test_the_real_flickr8k_is_the_same_split_in_both_formats() -> None:
    lists = from_option("flickr8k", FLICKR8K, annotations="none.json").read("val")
    karpathy = from_option("flickr8k", FLICKR8K).read("val")
    assert (len(lists.images), len(lists.captions)) == (1000, 5000)
    assert {image.image_id for image in lists.images} == {i.image_id for i in karpathy.images}
    assert sorted(c.text for c in lists.captions) == sorted(c.text for c in karpathy.captions)
