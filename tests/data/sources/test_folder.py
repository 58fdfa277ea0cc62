"""Claims about a folder of your own images."""

import csv
import json
import os
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import pytest
from PIL import Image

from edje.data.sources.folder import FolderSource
from edje.errors import EdjeError

FORMS: tuple[tuple[Literal["NFC", "NFD"], str], ...] = (("NFC", "train"), ("NFD", "val"))


def write(root: Path, table: str, *names: str, file: str = "captions.csv") -> None:
    (root / file).write_text(table, encoding="utf-8")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)


def source(root: Path, **more: Any) -> FolderSource:
    return FolderSource(name="mine", root=str(root), **more)


def test_a_root_may_be_any_kind_of_path_but_no_empty_text(tmp_path: Path) -> None:
    with os.scandir(tmp_path.parent) as entries:
        entry = next(entries)  # has __fspath__, and is no Path
    assert FolderSource(name="mine", root=entry).root == Path(entry)  # type: ignore[arg-type]
    with pytest.raises(EdjeError, match=r"data\.root='': expected a path"):
        FolderSource(name="mine", root="")


def test_rows_of_one_image_are_its_captions(tmp_path: Path) -> None:
    table = 'image,caption,split\nb.png,one,train\nsub/a.png,"two, three",train\nb.png,four,train\n'
    write(tmp_path, table, "b.png", "sub/a.png")
    split = source(tmp_path).read("train")
    assert [image.image_id for image in split.images] == ["b.png", "sub/a.png"]
    assert [caption.text for caption in split.captions] == ["one", "four", "two, three"]


def test_json_lines_may_list_captions(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "caption": ["one", "two"], "split": "val"}]
    write(tmp_path, "\n".join(map(json.dumps, rows)), "a.png", file="captions.jsonl")
    split = source(tmp_path).read("val")
    assert [caption.text for caption in split.captions] == ["one", "two"]


def test_both_tables_of_the_same_rows_give_the_same_splits(tmp_path: Path) -> None:
    rows = [
        (f"{k % 5}.png", f'dog, "{k}" 🐕\nand 猫', "val" if k % 5 else "train") for k in range(9)
    ]
    names = [f"{k}.png" for k in range(5)]
    for kind in ("csv", "jsonl"):
        (tmp_path / kind).mkdir()
        write(tmp_path / kind, "", *names, file=f"captions.{kind}")
    with (tmp_path / "csv" / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    lines = [dict(zip(("image", "caption", "split"), row, strict=True)) for row in rows]
    text = "\n\n".join(map(json.dumps, lines))
    (tmp_path / "jsonl" / "captions.jsonl").write_text(text)
    for split in ("train", "val"):
        first, second = (source(tmp_path / kind).read(split) for kind in ("csv", "jsonl"))
        assert first.captions == second.captions
        assert [image.image_id for image in first.images] == [i.image_id for i in second.images]


def test_the_table_that_is_there_is_read_and_one_of_two_must_be_chosen(tmp_path: Path) -> None:
    write(tmp_path, '{"image": "a.png", "caption": "line"}', "a.png", file="captions.jsonl")
    assert source(tmp_path, val_share=1.0).read("val").captions[0].text == "line"
    write(tmp_path, "image,caption\na.png,table\n")
    with pytest.raises(EdjeError, match=r"captions\.csv and captions\.jsonl.*data\.captions"):
        source(tmp_path).splits()
    for name, text in (("captions.csv", "table"), ("captions.jsonl", "line")):
        chosen = source(tmp_path, captions=name, val_share=1.0).read("val")
        assert chosen.captions[0].text == text


def test_columns_and_image_folder_have_names_of_your_choice(tmp_path: Path) -> None:
    write(tmp_path, "file,text\na.png,one\nb.png,two\n", "photos/a.png", "photos/b.png")
    mine = source(tmp_path, image_column="file", caption_column="text", images="photos")
    assert mine.splits() == ["train", "val"]


def test_without_a_split_column_a_share_fixed_by_the_seed_is_val(tmp_path: Path) -> None:
    names = [f"{k}.png" for k in range(20)]
    write(tmp_path, "image,caption\n" + "".join(f"{name},dog\n" for name in names), *names)
    first, again, other = (source(tmp_path, dev_seed=s).read("val") for s in (0, 0, 1))
    assert len(first.images) == 4
    assert first == again
    assert first != other
    assert len(source(tmp_path).read("train").images) == 16
    assert source(tmp_path, val_share=1.0).splits() == ["val"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,text\na.png,dog\n", "line 2, has no 'caption'; it has image, text"),
        ("image,caption\n,dog\n", "line 2: a caption without an image"),
        ("image,caption\n", "holds no captions"),
        ("image,caption\na.png,a dog, running\n", "line 2, has more fields than the header"),
        ("image,caption,split\na.png,dog,train\na.png,cat,val\n", "in two splits"),
        ("image,caption,split\na.png,dog,train\nb.png,cat,\n", "1 images .* have no split"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str, message: str) -> None:
    write(tmp_path, table, "a.png", "b.png")
    with pytest.raises(EdjeError, match=message):
        source(tmp_path).splits()


def test_broken_json_lines_and_a_missing_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match=r"no captions table at .*captions\.csv"):
        source(tmp_path).splits()
    write(tmp_path, '{"image": "a.png", "caption": "dog"}\n{"image": ', file="captions.jsonl")
    with pytest.raises(EdjeError, match="at or after line 2, is not readable"):
        source(tmp_path).splits()
    for line, message in (('["a.png", "dog"]', "line 1, has no 'image'; it has no columns"),):
        write(tmp_path, line, file="captions.jsonl")
        with pytest.raises(EdjeError, match=message):
            source(tmp_path).splits()
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "captions.csv").write_bytes(b"image,caption\n\xff\xfe,dog\n")
    with pytest.raises(EdjeError, match="Expected UTF-8"):
        source(tmp_path).splits()


def test_captions_without_their_image_file_follow_the_policy(tmp_path: Path) -> None:
    write(tmp_path, "image,caption,split\na.png,dog,val\nb.png,cat,val\n", "a.png")
    with pytest.raises(EdjeError, match=r"have no file under .*b\.png"):
        source(tmp_path).read("val")
    assert source(tmp_path, bad_images="skip").read("val").skipped == ("b.png",)


def test_a_missing_root_and_an_absent_split_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="is not a folder"):
        source(tmp_path / "nowhere").splits()
    write(tmp_path, "image,caption,split\na.png,dog,val\n", "a.png")
    with pytest.raises(EdjeError, match=r"no split 'train'; it has val \(1 images\)"):
        source(tmp_path).read("train")


def test_a_share_outside_zero_to_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdjeError, match="between 0 and 1"):
        source(tmp_path, val_share=20)


@pytest.mark.parametrize("other", ["./a.png", "x/../a.png", ".//a.png", ".\\a.png"])
def test_an_image_in_two_splits_is_refused_however_its_path_is_spelled(
    tmp_path: Path, other: str
) -> None:
    write(tmp_path, f"image,caption,split\n{other},dog,train\na.png,cat,val\n", "a.png")
    with pytest.raises(EdjeError, match=r"in two splits .* a\.png in train and val"):
        source(tmp_path).splits()
    write(tmp_path, f"image,caption,split\n{other},dog,val\na.png,cat,val\n")
    split = source(tmp_path).read("val")
    assert [image.image_id for image in split.images] == ["a.png"]
    assert [caption.text for caption in split.captions] == ["dog", "cat"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_names_are_found_however_their_letters_are_composed(
    tmp_path: Path, on_disk: Literal["NFC", "NFD"], in_table: Literal["NFC", "NFD"]
) -> None:
    name = "été/café.png"
    there, written = normalize(on_disk, name), normalize(in_table, name)
    write(tmp_path, f"image,caption,split\n{written},dog,val\n", there)
    (image,) = source(tmp_path).read("val").images
    assert (image.image_id, image.path) == (normalize("NFC", name), str(tmp_path / there))
    both = "".join(f"{normalize(form, name)},dog,{split}\n" for form, split in FORMS)
    write(tmp_path, f"image,caption,split\n{both}")
    with pytest.raises(EdjeError, match="in two splits"):
        source(tmp_path).splits()


def test_usual_names_of_splits_count_as_ours_where_that_leaves_no_doubt(tmp_path: Path) -> None:
    def splits(*names: str, **more: Any) -> list[str]:
        rows = "".join(f"{name}.png,dog,{name}\n" for name in names)
        write(tmp_path, f"image,caption,split\n{rows}")
        return source(tmp_path, **more).splits()

    assert splits("training", "validation", "testing") == ["test", "train", "val"]
    assert splits("train", "dev") == ["train", "val"]
    assert splits("Train", "VAL", "Testing") == ["test", "train", "val"]
    assert splits("train", "Train") == ["Train", "train"]
    assert splits("train", "val", "dev") == ["dev", "train", "val"]
    assert splits("train", "valid", "dev") == ["dev", "train", "val"]
    assert splits("train", "dev", split="dev") == ["dev", "train"]
    assert splits("train", "dev", split_names={"dev": "dev"}) == ["dev", "train"]


def test_a_number_may_name_a_split_or_an_image_in_json_as_in_csv(tmp_path: Path) -> None:
    lines = [{"image": number, "caption": "dog", "split": number} for number in (0, 1)]
    write(tmp_path, json.dumps(lines), file="captions.json")
    names = {"0": "train", "1": "val"}
    assert source(tmp_path, split_names=names).splits() == ["train", "val"]


@pytest.mark.parametrize("folder", ["loop", "x" * 300, "é" * 300, "a\0b", "é\0", "closed"])
def test_a_folder_that_can_not_be_listed_has_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.png").symlink_to("loop.png")
    entries = [
        {"image": name, "caption": "dog", "split": "val"}
        for name in ("a.png", "loop.png", f"{folder}/b.png")
    ]
    write(tmp_path, json.dumps(entries), "a.png", file="captions.json")
    scandir = os.scandir

    def refusing(place: str | Path) -> Any:  # root may list all
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(EdjeError, match="2 of 3 images of split 'val' have no file"):
        source(tmp_path).read("val")
    assert "its images count as missing" in caplog.text
    assert len(source(tmp_path, bad_images="skip").read("val").images) == 1


def test_splits_have_the_names_that_are_given_to_them(tmp_path: Path) -> None:
    table = "image,caption,split\na.png,one,A\nb.png,two,B\nc.png,three,C\na.png,four,C\n"
    write(tmp_path, table, "a.png", "b.png", "c.png")
    mine = source(tmp_path, split="B", split_names={"A": "train", "B": "val", "C": "train"})
    assert (mine.splits(), mine.split) == (["train", "val"], "val")
    assert [caption.text for caption in mine.read("train").captions] == ["one", "four", "three"]


def test_a_split_that_is_not_there_is_answered_with_what_helps(tmp_path: Path) -> None:
    write(tmp_path, "image,caption,split\na.png,dog,A\nb.png,cat,B\n", "a.png", "b.png")
    with pytest.raises(EdjeError) as refused:  # a choice with data.split would not help
        source(tmp_path, split="B").read("train")
    assert str(refused.value).endswith(
        "Say which one it is, such as 'data.split_names={A: train}'."
    )
    choice = r"Choose one of these with data\.split, or say .* 'data\.split_names=\{A: val\}'"
    with pytest.raises(EdjeError, match=choice):
        source(tmp_path).read("val")
    write(tmp_path, "image,caption,split\na.png,dog,val\n")
    with pytest.raises(EdjeError, match=r"it has val \(1 images\)\. Add the images to train on"):
        source(tmp_path).read("train")


def test_a_name_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    """As Python gives the names of such files, and JSON keeps them."""
    row = {"image": b"caf\xe9.png".decode(errors="surrogateescape"), "caption": "a dog"}
    (tmp_path / "captions.jsonl").write_text(json.dumps(row))
    with pytest.raises(EdjeError, match=r"1 image name.* not valid UTF-8, such as 'caf.udce9"):
        source(tmp_path, captions="captions.jsonl").read("train")
