"""Claims about what counts as a caption: the same in every source, under the same policy."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from edje.data.mixture.listed_pairs import ListedPairs
from edje.data.mixture.pairs import PairTable
from edje.data.mixture.tar_pairs import TarPairs
from edje.data.sources.folder import FolderSource
from edje.data.sources.hub import HubSource
from edje.data.sources.image_captions import ImageCaptions
from edje.data.sources.karpathy import KarpathySource
from edje.data.sources.source import Source
from edje.errors import EdjeError
from tests.tiny.image_files import jpeg, rows, write_images, write_tar

NAN = float("nan")
SOUND = ["a dog", "None", "nan", "...", " ! "]
NONE_OF_THEM = [None, "", " \n", "\u3000", NAN, 7, True, {"raw": "dog"}]
# Image a keeps two captions, b loses its only one, c is sound.
SAID: dict[str, list[Any]] = {"a.jpg": ["one", None, "two", " "], "b.jpg": [None], "c.jpg": ["x"]}
KEPT = [("a.jpg", "one"), ("a.jpg", "two"), ("c.jpg", "x")]


def test_a_text_with_something_in_it_is_a_caption_and_nothing_else_is() -> None:
    said = ImageCaptions("a.jpg")
    said.add([*SOUND, *NONE_OF_THEM], "line 3")
    assert said.texts == SOUND
    assert said.bad[0] == "line 3: the caption of a.jpg is null"
    assert said.bad[1] == "line 3: the caption of a.jpg is empty"
    assert said.bad[4] == "line 3: the caption of a.jpg is nan, expected a text"
    assert len(said.bad) == len(NONE_OF_THEM)


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('["Two men", "Two young guys"]', ["Two men", "Two young guys"]),
        (' [ "one" ]\n', ["one"]),
        ("[]", []),
        *((text, [text]) for text in ("[7]", '["a"', "[sic] a dog", '["a"] dog', "[" * 100_000)),
    ],
)
def test_a_text_that_is_a_json_list_of_texts_is_these(text: str, texts: list[str]) -> None:
    said = ImageCaptions("a.jpg")
    said.add(text, "line 3")
    assert (said.texts, said.bad) == (texts, [])


def test_a_table_s_field_may_list_captions(tmp_path: Path) -> None:
    """As Flickr30k's table on the hub does."""
    write_images(tmp_path, ["a.jpg"])
    line = '"[""Two men"", ""Two young guys""]","[0, 1]",test,a.jpg,0'
    (tmp_path / "captions.csv").write_text(f"raw,sentids,split,filename,img_id\n{line}\n")
    columns = {"image_column": "filename", "caption_column": "raw"}
    split = FolderSource(name="mine", root=str(tmp_path), split="test", **columns).read("test")
    texts = ("Two men", "Two young guys")
    assert tuple(caption.text for caption in split.captions) == texts
    pairs = ListedPairs(
        root=str(tmp_path), annotations="captions.csv", images=["."], **columns
    ).table("tiny", tmp_path / "cache", "error")
    assert rows(pairs) == [("a.jpg", texts)]


def karpathy(root: Path, policy: str, **more: Any) -> Source:
    images = [
        {"filename": name, "split": "test", "sentences": [{"raw": text} for text in texts]}
        for name, texts in SAID.items()
    ]
    (root / "d.json").write_text(json.dumps({"images": images}))
    return KarpathySource(
        name="tiny", root=str(root), annotations="d.json", images=["."], bad_images=policy, **more
    )


def lists(root: Path, policy: str) -> Source:
    entries = [{"image": name, "caption": text} for name, own in SAID.items() for text in own]
    (root / "test.json").write_text(json.dumps(entries))
    files = {"test": "test.json"}
    return KarpathySource(
        name="tiny",
        root=str(root),
        annotations="none.json",
        caption_lists=files,
        images=["."],
        bad_images=policy,
    )


def folder(kind: str) -> Callable[[Path, str], Source]:
    def made(root: Path, policy: str) -> Source:
        lines = [
            {"image": name, "caption": text, "split": "test"}
            for name, own in SAID.items()
            for text in own
        ]
        text = {
            "csv": "image,caption,split\n"
            + "".join(f"{i['image']},{i['caption'] or ''},test\n" for i in lines),
            "jsonl": "\n".join(map(json.dumps, lines)),
            "json": json.dumps(lines),
        }[kind]
        (root / f"captions.{kind}").write_text(text)
        return FolderSource(name="tiny", root=str(root), split="test", bad_images=policy)

    return made


def hub(root: Path, policy: str) -> Source:
    content = {"id": list(SAID), "image": [str(root / name) for name in SAID]}
    data = datasets.Dataset.from_dict(content | {"texts": list(SAID.values())})
    datasets.DatasetDict(test=data).save_to_disk(root / "saved")
    return HubSource(
        name="tiny",
        dataset=str(root / "saved"),
        cache_dir=str(root / "cache"),
        caption_columns=["texts"],
        id_column="id",
        bad_images=policy,
    )


SOURCES = {
    "karpathy": karpathy,
    "lists": lists,
    "csv": folder("csv"),
    "json lines": folder("jsonl"),
    "json": folder("json"),
    "hub": hub,
}
PLACES = {
    "karpathy": r"images\[0\], sentences\[1\]",
    "lists": "entry 1",
    "csv": "line 3",
    "json lines": "line 2",
    "json": "entry 1",
    "hub": "row 0",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_bad_caption_is_an_error_with_image_and_place_or_left_out_and_counted(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    datasets.disable_progress_bars()
    write_images(tmp_path)
    with pytest.raises(EdjeError, match=rf"3 captions .*{PLACES[kind]}.* caption of a\.jpg is"):
        SOURCES[kind](tmp_path, "error").read("test")
    with caplog.at_level(logging.WARNING):
        split = SOURCES[kind](tmp_path, "skip").read("test")
    assert [(caption.image_id, caption.text) for caption in split.captions] == KEPT
    assert split.skipped == ("b.jpg",)
    assert "left out 3 bad captions of split test" in caplog.text


def listed(layout: str) -> Callable[[Path], ListedPairs]:
    pairs = [(name, text) for name, own in SAID.items() for text in own]
    contents: dict[str, Any] = {
        "list.json": [{"image": name, "caption": text} for name, text in pairs],
        "coco.json": {
            "images": [{"id": name, "file_name": name} for name in SAID],
            "annotations": [{"image_id": name, "caption": text} for name, text in pairs],
        },
        "karpathy.json": {
            "images": [
                {"filename": name, "split": "train", "sentences": [{"raw": t} for t in texts]}
                for name, texts in SAID.items()
            ]
        },
        "table.jsonl": "\n".join(json.dumps({"image": n, "caption": t}) for n, t in pairs),
        "table.csv": "image,caption\n" + "".join(f"{n},{t or ''}\n" for n, t in pairs),
    }

    def made(root: Path) -> ListedPairs:
        content = contents[layout]
        text = content if isinstance(content, str) else json.dumps(content)
        (root / layout).write_text(text)
        return ListedPairs(root=str(root), annotations=layout, images=["."])

    return made


@pytest.mark.parametrize(
    "layout", ["list.json", "coco.json", "karpathy.json", "table.jsonl", "table.csv"]
)
def test_the_same_captions_are_bad_among_listed_pairs(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path)
    source = listed(layout)(tmp_path)
    with pytest.raises(EdjeError, match=r"image a\.jpg has no caption \(.*a\.jpg is (null|empty)"):
        source.table("tiny", tmp_path / "cache", "error")
    table = source.table("tiny", tmp_path / "cache", "skip")
    assert [(name, text) for name, texts in rows(table) for text in texts] == KEPT
    assert "3 entries left out" in caplog.text


def counted(table: PairTable) -> int:
    return int(json.loads(table.path.with_suffix(".json").read_text())["left_out"])


def test_one_bad_caption_among_several_of_an_image_is_left_out_and_the_image_stays(
    tmp_path: Path,
) -> None:
    write_images(tmp_path, ["1.jpg"])
    (tmp_path / "region.json").write_text(
        json.dumps([{"id": 1, "regions": [{"phrase": "a cat"}, {"phrase": ""}, {"phrase": None}]}])
    )
    members = {"1.jpg": jpeg((0, 0, 0)), "1.json": '{"caption": ["a cat", NaN, " "]}'}
    write_tar(tmp_path / "tars" / "0.tar", members)
    genome = ListedPairs(root=str(tmp_path), annotations="region.json", images=["."])
    for source in (genome, TarPairs(root=str(tmp_path / "tars"))):
        with pytest.raises(EdjeError, match=r"the caption of 1\.jpg is (empty|nan)"):
            source.table("tiny", tmp_path / "cache", "error")
        table = source.table("tiny", tmp_path / "cache", "skip")
        assert [texts for _, texts in rows(table)] == [("a cat",)]
        assert counted(table) == 2


def test_known_numbers_of_captions_count_the_bad_ones_too(tmp_path: Path) -> None:
    write_images(tmp_path)
    split = karpathy(tmp_path, "skip", caption_counts={"test": 6}, split_sizes={"test": 3})
    assert len(split.read("test").captions) == 3


@pytest.mark.parametrize("key", ["filename", "split"])
def test_an_image_name_or_a_split_that_is_null_is_no_name(tmp_path: Path, key: str) -> None:
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "dog"}]} | {key: None}
    (tmp_path / "d.json").write_text(json.dumps({"images": [image]}))
    source = KarpathySource(name="tiny", root=str(tmp_path), annotations="d.json", images=["."])
    with pytest.raises(EdjeError, match=rf"images\[0\] .*empty '{key}'"):
        source.splits()
