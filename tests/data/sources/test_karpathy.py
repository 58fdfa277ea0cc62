"""Claims about reading Karpathy-style data sets."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from edje.data.sources.karpathy import KarpathySource
from edje.data.sources.source import split_digest
from edje.errors import EdjeError
from tests.tiny.shared import FLICKR8K

CONF = Path(__file__).parents[3] / "conf" / "data"


def entry(filename: str, split: str, count: int = 2, **more: Any) -> dict[str, Any]:
    sentences = [{"raw": f"caption {k} of {filename}"} for k in range(count)]
    return {"filename": filename, "split": split, "sentences": sentences, **more}


def write(
    root: Path, entries: list[dict[str, Any]], *, folder: str = "images", file: str = "dataset.json"
) -> None:
    """Write annotations, and an image file for each entry under `folder` and its filepath."""
    root.mkdir(exist_ok=True)
    (root / file).write_text(json.dumps({"dataset": "tiny", "images": entries}))
    for item in entries:
        path = root / folder / item.get("filepath", ".") / item["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)


def option(name: str, root: Path) -> dict[str, Any]:
    """The arguments that an option file of conf/data gives, with another root."""
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "edje.data.sources.karpathy.KarpathySource"
    return settings | {"root": str(root)}


def source(root: Path, **more: Any) -> KarpathySource:
    settings: dict[str, Any] = {"images": ["images", "."]} | more
    return KarpathySource(name="tiny", root=str(root), annotations="dataset.json", **settings)


def test_a_split_has_sorted_images_and_their_captions_in_order(tmp_path: Path) -> None:
    write(tmp_path, [entry("b.png", "train"), entry("a.png", "train", 3), entry("c.png", "val")])
    split = source(tmp_path).read("train")
    assert [image.image_id for image in split.images] == ["a.png", "b.png"]
    assert [caption.caption_id for caption in split.captions] == [
        "a.png#0",
        "a.png#1",
        "a.png#2",
        "b.png#0",
        "b.png#1",
    ]
    assert split.captions[3].text == "caption 0 of b.png"
    assert split.image_of_caption() == [0, 0, 0, 1, 1]
    assert all(Path(image.path).is_file() for image in split.images)
    assert (split.dataset, split.name, split.skipped) == ("tiny", "train", ())


def test_restval_counts_as_train(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("b.png", "restval"), entry("c.png", "test")])
    assert source(tmp_path).splits() == ["test", "train"]
    assert len(source(tmp_path).read("train").images) == 2


def test_restval_is_what_the_user_says(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("b.png", "restval"), entry("c.png", "test")])
    mine = source(tmp_path, split_names={"restval": "val"})
    assert mine.splits() == ["test", "train", "val"]
    theirs = source(tmp_path, split_names={"train": "rest"})
    assert [image.image_id for image in theirs.read("rest").images] == ["a.png", "b.png"]


@pytest.mark.parametrize("folder", ["images", "."])
def test_coco_folders_and_a_flat_folder_are_found_alike(tmp_path: Path, folder: str) -> None:
    entries = [
        entry("x.jpg", "train", filepath="train2014"),
        entry("y.jpg", "train", filepath="val2014"),
    ]
    write(tmp_path / "nested", entries, folder=folder)
    write(tmp_path / "flat", [item | {"filepath": "."} for item in entries], folder=folder)
    (tmp_path / "flat" / "dataset.json").write_text(json.dumps({"images": entries}))
    nested, flat = (source(tmp_path / name).read("train") for name in ("nested", "flat"))
    assert Path(nested.images[0].path).parent.name == "train2014"
    assert Path(flat.images[0].path).parent.name != "train2014"
    assert split_digest(nested) == split_digest(flat)


@pytest.mark.parametrize("folder", ["", "images/", "flat", "images/flat"])
def test_the_coco_option_finds_train2014_val2014_and_flat_folders_by_itself(
    tmp_path: Path, folder: str
) -> None:
    entries = [
        entry("COCO_train2014_1.jpg", "train", filepath="train2014"),
        entry("COCO_val2014_2.jpg", "restval", filepath="val2014"),
        entry("COCO_val2014_3.jpg", "test", filepath="val2014"),
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries}))
    for item in entries:
        place = folder.replace("flat", "") if "flat" in folder else f"{folder}{item['filepath']}"
        path = tmp_path / place / item["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    settings = option("coco", tmp_path) | {"split_sizes": None, "caption_counts": None}
    train, test = (KarpathySource(**settings).read(split) for split in ("train", "test"))
    names = [image.image_id for image in train.images]
    assert names == ["COCO_train2014_1.jpg", "COCO_val2014_2.jpg"]
    assert all(Path(image.path).is_file() for image in (*train.images, *test.images))


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco"])
def test_the_options_know_the_published_sizes(tmp_path: Path, name: str) -> None:
    settings = option(name, tmp_path)
    sizes, counts = settings["split_sizes"], settings["caption_counts"]
    published = {
        "flickr8k": ((6000, 1000, 1000), (30000, 5000, 5000)),
        "flickr30k": ((29000, 1014, 1000), (145000, 5070, 5000)),
        "coco": ((113287, 5000, 5000), (566747, 25010, 25010)),
    }
    assert list(sizes) == list(counts) == ["train", "val", "test"]
    assert (tuple(sizes.values()), tuple(counts.values())) == published[name]
    write(tmp_path, [entry("a.png", "test")], file=f"dataset_{name}.json")
    with pytest.raises(EdjeError, match=rf"{name}: .* has 1 images, expected .,000"):
        KarpathySource(**settings).read("test")
    accepted = settings | {"split_sizes": None, "caption_counts": None}
    assert len(KarpathySource(**accepted).read("test").images) == 1


def test_the_digest_changes_with_a_caption(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "test")])
    before = split_digest(source(tmp_path).read("test"))
    changed = entry("a.png", "test")
    changed["sentences"][1]["raw"] = "another caption"
    write(tmp_path, [changed])
    assert split_digest(source(tmp_path).read("test")) != before


def test_captions_of_any_characters_are_read_as_they_are(tmp_path: Path) -> None:
    texts = [
        "🐕 👩‍👩‍👧",
        "...",
        " a ",
        "&amp;quot;",
        "猫 कुत्ता كلب",
        "a\x00b",
        "\ud83d",
        "dog " * 10_000,
    ]
    item = entry("a.png", "test") | {"sentences": [{"raw": text} for text in texts]}
    write(tmp_path, [item])
    split = source(tmp_path).read("test")
    assert [caption.text for caption in split.captions] == texts
    assert len(split_digest(split)) == 64


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"nowhere is not a folder.*data\.root"):
        source(tmp_path / "nowhere").read("train")


def test_missing_annotations_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"no annotations at .*dataset\.json"):
        source(tmp_path).splits()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "no list under the key 'images'"),
        ('{"images": [{"split": "train", "sentences": []}]}', r"images\[0\] lacks 'filename'"),
        ('{"images": [7]}', r"images\[0\] lacks"),
        ('{"images": [{"filename": "", "split": "a", "sentences": []}]}', "captions but no image"),
    ],
)
def test_malformed_annotations_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(EdjeError, match=message):
        source(tmp_path).splits()


def test_captions_of_another_image_are_refused(tmp_path: Path) -> None:
    item = entry("a.png", "train", imgid=1)
    item["sentences"][0]["imgid"] = 2
    write(tmp_path, [item])
    with pytest.raises(EdjeError, match=r"their image: a\.png .* captions of imgid 2\."):
        source(tmp_path).read("train")


def test_an_absent_split_is_named_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("b.png", "val")])
    with pytest.raises(EdjeError, match=r"no split 'test'; it has train \(1 images\), val"):
        source(tmp_path).read("test")


def test_an_image_in_two_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("a.png", "val")])
    with pytest.raises(EdjeError, match=r"in two splits .*a\.png in train and val"):
        source(tmp_path).read("train")


def test_an_image_in_two_splits_is_refused_however_it_is_spelled(tmp_path: Path) -> None:
    write(tmp_path, [entry("café.png", "train"), entry("./cafe\u0301.png", "val")])
    with pytest.raises(EdjeError, match=r"in two splits .*café\.png in train and val"):
        source(tmp_path).read("train")


def test_equal_names_in_two_folders_are_two_images_with_paths_as_ids(tmp_path: Path) -> None:
    entries = [entry("1.png", "train", filepath="a"), entry("1.png", "val", filepath="b")]
    write(tmp_path, entries)
    problem = r"1\.png stands for images/a/1\.png and for images/b/1\.png .*data\.image_ids=path"
    with pytest.raises(EdjeError, match=problem):
        source(tmp_path).read("train")
    for split, image_id in (("train", "a/1.png"), ("val", "b/1.png")):
        (image,) = source(tmp_path, image_ids="path").read(split).images
        assert image.image_id == image_id
        assert Path(image.path) == tmp_path / "images" / image_id
    for folder in "ab":  # a flat folder can't hold both
        (tmp_path / "images" / folder / "1.png").rename(tmp_path / "images" / "1.png")
    with pytest.raises(EdjeError, match=r"a/1\.png \(tried images/a/1\.png, a/1\.png\)"):
        source(tmp_path, image_ids="path").read("train")


def test_splits_have_the_names_that_are_given_to_them(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "restval"), entry("b.png", "A"), entry("c.png", "validation")])
    mine = source(tmp_path, split_names={"A": "train"})
    assert mine.splits() == ["train", "val"]
    assert [image.image_id for image in mine.read("train").images] == ["a.png", "b.png"]


def test_an_image_annotated_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("a.png", "train")])
    with pytest.raises(EdjeError, match=r"annotated twice .*a\.png"):
        source(tmp_path).read("train")


def test_missing_images_are_an_error_or_skipped_and_listed(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("b.png", "train")])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(EdjeError, match=r"1 of 2 images .*a\.png .*data\.bad_images=skip"):
        source(tmp_path).read("train")
    split = source(tmp_path, bad_images="skip").read("train")
    assert [image.image_id for image in split.images] == ["b.png"]
    assert {caption.image_id for caption in split.captions} == {"b.png"}
    assert split.skipped == ("a.png",)


def test_an_image_without_captions_is_an_error_or_skipped(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train"), entry("b.png", "train", 0)])
    with pytest.raises(EdjeError, match=r"no caption: b\.png"):
        source(tmp_path).read("train")
    assert source(tmp_path, bad_images="skip").read("train").skipped == ("b.png",)


def test_a_split_that_skipping_empties_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "train")])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(EdjeError, match=r"'train' .* is empty \(1 bad images were left out\)"):
        source(tmp_path, bad_images="skip").read("train")


def test_known_sizes_are_checked_and_can_be_overridden(tmp_path: Path) -> None:
    write(tmp_path, [entry("a.png", "test"), entry("b.png", "test")])
    with pytest.raises(EdjeError, match=r"has 2 images, expected 1,000.*data\.split_sizes=null"):
        source(tmp_path, split_sizes={"test": 1000}).read("test")
    with pytest.raises(EdjeError, match=r"has 4 captions, expected 5.*data\.caption_counts=null"):
        source(tmp_path, split_sizes={"test": 2}, caption_counts={"test": 5}).read("test")
    assert len(source(tmp_path, split_sizes={"train": 7}).read("test").images) == 2


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="the photographs are not here")
def test_the_real_flickr8k_has_its_published_sizes() -> None:
    flickr8k = KarpathySource(
        name="flickr8k",
        root=str(FLICKR8K),
        annotations="dataset_flickr8k.json",
        images=["images"],
        split_sizes={"train": 6000, "val": 1000, "test": 1000},
        caption_counts={"train": 30000, "val": 5000, "test": 5000},
    )
    assert flickr8k.splits() == ["train", "val"]
    train, val = flickr8k.read("train"), flickr8k.read("val")
    assert not {i.image_id for i in train.images} & {i.image_id for i in val.images}
    with pytest.raises(EdjeError, match="no split 'test'"):
        flickr8k.read("test")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [entry(b"caf\xe9.jpg".decode(errors="surrogateescape"), "test")])
    with pytest.raises(EdjeError, match=r"1 image name.* not valid UTF-8, such as 'caf.udce9"):
        source(tmp_path).read("test")
