"""Claims about the tables of pairs: every layout of annotation files, and tars."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any, Literal
from unicodedata import normalize

import pytest

from edje.data.mixture.listed_pairs import ListedPairs
from edje.data.mixture.pairs import PairTable
from edje.data.mixture.streamed_pairs import opened
from edje.data.mixture.tar_pairs import MANY_TARS, TarPairs
from edje.errors import EdjeError
from tests.tiny.image_files import COLOURS, jpeg, rows, write_images, write_tar


def listed(root: Path, file: str, content: Any, **options: Any) -> ListedPairs:
    text = content if isinstance(content, str) else json.dumps(content)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)
    options = {"images": ["images", "."]} | options
    return ListedPairs(root=str(root), annotations=file, **options)


def table_of(source: ListedPairs | TarPairs, tmp_path: Path, policy: str = "error") -> PairTable:
    return source.table("tiny", tmp_path / "cache", policy)  # type: ignore[arg-type]


LAYOUTS = {
    "blip.json": [
        {"image": "/export/elsewhere/images/a.jpg", "caption": "red", "image_id": "1"},
        {"image": "images/a.jpg", "caption": ["dark red"]},
        {"image": "b.jpg", "caption": "green"},
    ],
    "table.csv": 'image,caption\na.jpg,red\na.jpg,dark red\nb.jpg,"green"\n',
    "table.tsv": "image\tcaption\na.jpg\tred\na.jpg\tdark red\nb.jpg\tgreen\n",
    "lines.jsonl": '{"image": "a.jpg", "caption": "red"}\n\n'
    '{"image": "a.jpg", "caption": ["dark red"]}\n{"image": "b.jpg", "caption": "green"}\n',
    "captions_train2014.json": {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": "red"},
            {"image_id": 7, "caption": "dark red"},
            {"image_id": 9, "caption": "green"},
        ],
    },
    "dataset_coco.json": {
        "images": [
            {
                "filename": "a.jpg",
                "filepath": "train2014",
                "split": "train",
                "sentences": [{"raw": "red"}, {"raw": "dark red"}],
            },
            {"filename": "c.jpg", "split": "test", "sentences": [{"raw": "blue"}]},
            {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "green"}]},
        ]
    },
}


@pytest.mark.parametrize("file", LAYOUTS)
def test_every_layout_of_a_list_gives_the_same_pairs(tmp_path: Path, file: str) -> None:
    write_images(tmp_path / "images")
    table = table_of(listed(tmp_path, file, LAYOUTS[file]), tmp_path)
    assert rows(table) == [
        ("images/a.jpg", ("red",)),
        ("images/a.jpg", ("dark red",)),
        ("images/b.jpg", ("green",)),
    ]


def test_visual_genome_s_phrases_are_found_in_both_of_its_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "VG_100K", ["1.jpg"])
    write_images(tmp_path / "VG_100K_2", ["22.jpg"])
    regions = [
        {"id": 1, "regions": [{"phrase": "a cat"}, {"phrase": "its tail "}]},
        {"image_id": 22, "id": 5, "regions": [{"phrase": "a roof"}]},
    ]
    source = listed(tmp_path, "region.json", regions, images=["VG_100K", "VG_100K_2"])
    assert rows(table_of(source, tmp_path)) == [
        ("VG_100K/1.jpg", ("a cat", "its tail ")),
        ("VG_100K_2/22.jpg", ("a roof",)),
    ]


@pytest.mark.parametrize("folder", ["train2014", ".", "images/train2014", "images"])
def test_coco_s_folders_are_found_without_being_asked(tmp_path: Path, folder: str) -> None:
    write_images(tmp_path / folder, ["a.jpg"])
    source = listed(tmp_path, "c.json", [{"image": "train2014/a.jpg", "caption": "red"}])
    ((found, _),) = rows(table_of(source, tmp_path))
    assert (tmp_path / found).samefile(tmp_path / folder / "a.jpg")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_spellings_of_a_path_are_pairs_of_one_file(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    there = normalize(form, "café.jpg")
    write_images(tmp_path / "images", [there])
    spelled = ["café.jpg", "./cafe\u0301.jpg", "x/../café.jpg", ".\\café.jpg"]
    entries = [{"image": name, "caption": "red"} for name in spelled]
    table = table_of(listed(tmp_path, "c.json", entries), tmp_path)
    assert rows(table) == [(f"images/{there}", ("red",))] * 4


def test_entries_without_image_or_caption_are_an_error_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "images", ["a.jpg"])
    entries = [
        {"image": "a.jpg", "caption": "red"},
        {"image": "gone.jpg", "caption": "red"},
        {"image": "a.jpg", "caption": ["", " "]},
    ]
    source = listed(tmp_path, "c.json", entries)
    with pytest.raises(EdjeError, match=r"data\.sources\.tiny: image gone\.jpg has no file"):
        table_of(source, tmp_path)
    for _ in range(2):  # read, and then from the cache
        assert len(table_of(source, tmp_path, "skip")) == 1
        assert "2 entries left out, such as: image gone.jpg" in caplog.text
        caplog.clear()
    with pytest.raises(EdjeError, match=r"2 entries left out, such as: image gone\.jpg"):
        table_of(source, tmp_path)


def test_an_image_that_was_missing_is_found_when_it_is_there(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.jpg"])
    entries = [{"image": f"{name}.jpg", "caption": "red"} for name in "abcd"]
    source = listed(tmp_path, "c.json", entries)
    first = table_of(source, tmp_path, "skip")
    assert rows(first) == [("images/a.jpg", ("red",))]
    write_images(tmp_path / "images", ["b.jpg"])
    second = table_of(source, tmp_path, "skip")
    assert [file for file, _ in rows(second)] == ["images/a.jpg", "images/b.jpg"]
    assert len(first) == 1  # another run may still be reading it
    assert table_of(source, tmp_path, "skip").path == second.path
    write_images(tmp_path, ["c.jpg", "d.jpg"])
    assert len(table_of(source, tmp_path)) == 4


def test_one_file_is_not_the_image_of_several_paths(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["1.jpg"])

    def table(*paths: str) -> PairTable:
        entries = [{"image": path, "caption": "x"} for path in paths]
        return table_of(listed(tmp_path, "c.json", entries), tmp_path, "skip")

    for paths in (["cats/1.jpg", "1.jpg", "dogs/1.jpg"], ["1.jpg", "dogs/1.jpg", "cats/1.jpg"]):
        with pytest.raises(
            EdjeError, match=r"entry 2: \w+/1\.jpg and \w+/1\.jpg are both found as"
        ):
            table(*paths)
    assert len(table("1.jpg", "cats/1.jpg", "x/cats/1.jpg", "./1.jpg")) == 4
    write_images(tmp_path / "images" / "dogs", ["1.jpg"])
    assert len(table("1.jpg", "cats/1.jpg", "dogs/1.jpg")) == 3


@pytest.mark.parametrize("root", ["set", "{}/set"])
def test_absolute_paths_are_read_within_the_root_and_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "set" / "images", ["a.jpg"])
    write_images(tmp_path / "other", ["b.jpg"])
    paths = [tmp_path / "set" / "images" / "a.jpg", tmp_path / "other" / "b.jpg"]
    entries = [{"image": str(path), "caption": "x"} for path in paths]
    table = table_of(listed(Path(root.format(tmp_path)), "c.json", entries), tmp_path)
    assert [file for file, _ in rows(table)] == ["images/a.jpg", str(paths[1])]
    assert opened(Path("set"), table[1]).size == (8, 8)


def test_half_a_character_is_replaced_in_a_caption_and_is_no_name(tmp_path: Path) -> None:
    """Arrow keeps neither."""
    odd = b"\xe9.jpg".decode(errors="surrogateescape")
    entries = [{"image": "a.jpg", "caption": "a \ud83d"}, {"image": odd, "caption": "x"}]
    source = listed(tmp_path, "c.json", entries)
    for names in (["a.jpg"], [odd]):  # is missing at first
        write_images(tmp_path / "images", names)
        assert rows(table_of(source, tmp_path, "skip")) == [("images/a.jpg", ("a \ufffd",))]
    with pytest.raises(EdjeError, match=r"the name of image 'images/.udce9\.jpg' is not valid"):
        table_of(source, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.json", "{", "not readable as JSON"),
        ("a.json", "[]", "no pairs found"),
        ("a.json", "{}", "has no known layout"),
        ("a.json", "[7]", "entry 0 is '7'"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "no known layout"),
        ("a.csv", "image,text\na.jpg,red\n", "line 2, has no 'caption'"),
        ("a.jsonl", '{"image": " ", "caption": "red"}', "line 1.*is not an image with a caption"),
        ("a.jsonl", "{", "line 1, is not readable"),
    ],
)
def test_a_wrong_list_is_refused_by_name(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    with pytest.raises(EdjeError, match=message) as raised:
        table_of(listed(tmp_path, file, content), tmp_path)
    assert "data.sources.tiny" in str(raised.value)
    assert not list((tmp_path / "cache").rglob("*.arrow*"))


def test_missing_annotations_tars_and_roots_are_named(tmp_path: Path) -> None:
    source = ListedPairs(root=str(tmp_path), annotations="none.json", images=["."])
    with pytest.raises(EdjeError, match=r"no annotations at .*none\.json"):
        table_of(source, tmp_path)
    with pytest.raises(EdjeError, match=r"no tars \*\.tar in"):
        table_of(TarPairs(root=str(tmp_path)), tmp_path)
    with pytest.raises(EdjeError, match=r"is not a folder.*Set data\.sources\.tiny\.root="):
        table_of(TarPairs(root=str(tmp_path / "nowhere")), tmp_path)


def test_a_list_that_changed_is_read_again_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    first = table_of(listed(tmp_path, "t.csv", "image,caption\na.jpg,red\n"), tmp_path)
    written = first.path.stat().st_mtime_ns
    same = ListedPairs(root=str(tmp_path), annotations="t.csv", images=["images", "."])
    assert table_of(same, tmp_path).path.stat().st_mtime_ns == written
    other = table_of(listed(tmp_path, "t.csv", "image,caption\nb.jpg,green\n"), tmp_path)
    assert rows(other) == [("images/b.jpg", ("green",))]


SAMPLES = {
    "0001.jpg": jpeg(COLOURS["a.jpg"]),
    "0001.txt": "red\n",
    "0001.json": '{"caption": "not read"}',
    "0002.png": jpeg(COLOURS["b.jpg"]),
    "0002.json": '{"caption": "green", "width": 8}',
    "deep/0002.JPG": jpeg(COLOURS["c.jpg"]),
    "deep/0002.json": '{"caption": ["blue"]}',
}


def test_tars_of_both_layouts_give_pairs_whose_images_open(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "00000.tar", SAMPLES)
    write_tar(tmp_path / "tars" / "00001.tar", {"x.webp": jpeg((9, 9, 9)), "x.txt": "grey 猫🐕"})
    table = table_of(TarPairs(root=str(tmp_path / "tars")), tmp_path)
    assert table.blocks == [3, 1]
    pairs = [table[row] for row in range(len(table))]
    assert [pair.captions for pair in pairs] == [("red",), ("green",), ("blue",), ("grey 猫🐕",)]
    for pair, colour in zip(pairs, COLOURS.values(), strict=False):
        pixel = opened(tmp_path / "tars", pair).getpixel((3, 3))
        assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) < 4


def test_another_field_of_the_json_may_be_the_caption(tmp_path: Path) -> None:
    members = {"1.jpg": jpeg((0, 0, 0)), "1.json": '{"caption": "no", "alt": "yes"}'}
    write_tar(tmp_path / "tars" / "0.tar", members)
    table = table_of(TarPairs(root=str(tmp_path / "tars"), caption_key="alt"), tmp_path)
    assert rows(table) == [("0.tar", ("yes",))]


@pytest.mark.parametrize("cut", ["in an image", "in a header", "between members", "empty"])
def test_a_tar_that_is_cut_off_is_named(tmp_path: Path, cut: str) -> None:
    members = {"1.jpg": jpeg((0, 0, 0)), "1.txt": "a", "2.jpg": jpeg((0, 0, 0), 40), "2.txt": "b"}
    path = write_tar(tmp_path / "tars" / "00042.tar", members)
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2]
    size = {
        "in an image": second.offset_data + 100,
        "in a header": second.offset + 100,
        "between members": second.offset,
        "empty": 0,
    }[cut]
    path.write_bytes(path.read_bytes()[:size])
    for policy in ("error", "skip"):
        with pytest.raises(EdjeError, match=r"00042\.tar is cut off"):
            table_of(TarPairs(root=str(tmp_path / "tars")), tmp_path, policy)


def test_a_compressed_tar_and_another_file_are_no_tars(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 200)
    for name in ("a.tar", "b.tar"):
        with pytest.raises(EdjeError, match=rf"{name} is cut off, compressed or not a tar"):
            table_of(TarPairs(root=str(tmp_path), shards=name), tmp_path)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"1.txt": "a"}, r"1\.txt in 0\.tar: no image"),
        ({"1.jpg": b"x"}, r"1\.jpg in 0\.tar: no caption"),
        ({"1.jpg": b"x", "1.json": "{"}, "no caption"),
        ({"1.jpg": b"x", "1.json": '{"caption": null}'}, "no caption"),
        ({"1.jpg": b"x", "1.txt": " \n"}, "no caption"),
    ],
)
def test_members_without_their_partner_are_an_error_or_left_out(
    tmp_path: Path, members: dict[str, bytes | str], problem: str
) -> None:
    whole = {"2.jpg": b"y", "2.txt": "b"}
    write_tar(tmp_path / "tars" / "0.tar", members | whole)
    source = TarPairs(root=str(tmp_path / "tars"))
    with pytest.raises(EdjeError, match=problem):
        table_of(source, tmp_path)
    assert rows(table_of(source, tmp_path, "skip")) == [("0.tar", ("b",))]


def test_many_tars_are_read_by_several_processes_in_their_order(tmp_path: Path) -> None:
    for number in range(MANY_TARS):
        members = {"1.jpg": b"x", "1.txt": f"caption {number}"}
        write_tar(tmp_path / "tars" / f"{number:05d}.tar", members)
    table = table_of(TarPairs(root=str(tmp_path / "tars")), tmp_path)
    captions = [captions for _, captions in rows(table)]
    assert captions == [(f"caption {number}",) for number in range(MANY_TARS)]


def test_a_table_travels_to_another_process_without_its_rows(tmp_path: Path) -> None:
    lines = "".join(f"a.jpg,caption {number}\n" for number in range(25_000))
    write_images(tmp_path / "images", ["a.jpg"])
    table = table_of(listed(tmp_path, "t.csv", f"image,caption\n{lines}"), tmp_path)
    assert table.blocks == [10_000, 10_000, 5_000]
    sent = pickle.dumps(table)
    assert len(sent) < 5_000
    assert pickle.loads(sent)[12_345].captions == ("caption 12345",)


def all_images_then_all_texts(root: Path, keys: list[str], *, images_first: bool = True) -> None:
    """A tar as `tar cf 0.tar *.jpg *.txt` makes it."""
    images = {f"{key}.jpg": jpeg((10 * number, 0, 0)) for number, key in enumerate(keys)}
    texts = {f"{key}.txt": f"caption of {key}" for key in keys}
    write_tar(root / "0.tar", images | texts if images_first else texts | images)


@pytest.mark.parametrize("images_first", [True, False])
@pytest.mark.parametrize(
    "keys",
    [
        ["1", "2", "3"],
        ["v1.2_000", "v1.2_001", "v1.10_000"],
        ["a", "a.1", "b.1"],
        ["./x/1", "./x/2", "./y.z/1"],
        ["x.y/1", "x.y/2", "猫.1"],
    ],
)
def test_members_of_one_key_are_a_pair_wherever_they_lie(
    tmp_path: Path, keys: list[str], images_first: bool
) -> None:
    all_images_then_all_texts(tmp_path, keys, images_first=images_first)
    table = table_of(TarPairs(root=str(tmp_path)), tmp_path)
    pairs = [table[row] for row in range(len(table))]
    assert [pair.captions for pair in pairs] == [(f"caption of {key}",) for key in keys]
    assert [opened(tmp_path, pair).getpixel((3, 3))[0] // 10 for pair in pairs] == [0, 1, 2]


def test_further_fields_of_a_sample_are_passed_over_as_webdataset_does(tmp_path: Path) -> None:
    members = {
        "1.jpg": jpeg((0, 0, 0)),
        "1.txt": "one",
        "1.seg.png": b"x",
        "1.meta.json": "{}",
        "1.seg.json": '{"classes": 3}',
        "1.cls": "7",
    }
    write_tar(tmp_path / "0.tar", members)
    assert rows(table_of(TarPairs(root=str(tmp_path)), tmp_path)) == [("0.tar", ("one",))]


def test_a_dotted_key_without_its_partner_is_left_out_by_name(tmp_path: Path) -> None:
    members = {"v1.0.jpg": jpeg((0, 0, 0)), "v1.0.txt": "zero", "v1.1.jpg": b"x", "v1.2.txt": "two"}
    write_tar(tmp_path / "0.tar", members)
    source = TarPairs(root=str(tmp_path))
    with pytest.raises(EdjeError, match=r"v1\.1\.jpg in 0\.tar: no caption \(v1\.1\.txt or \.json"):
        table_of(source, tmp_path)
    table = table_of(source, tmp_path, "skip")
    assert rows(table) == [("0.tar", ("zero",))]
    notes = json.loads(table.path.with_suffix(".json").read_text())
    assert notes["left_out"] == 2 and "v1.2.txt in 0.tar: no image" in notes["problems"][1]


def test_what_archivers_add_is_passed_over(tmp_path: Path) -> None:
    junk = [
        "._1.jpg",
        "._1.txt",
        ".DS_Store",
        "x/.DS_Store",
        "__MACOSX/1.jpg",
        "__MACOSX/x/._1.txt",
        "PaxHeader/1.jpg",
        "./PaxHeaders.123/1.txt",
        "@eaDir/1.jpg",
        "Thumbs.db",
        "x/desktop.ini",
        "README",
        "__worker__",
    ]
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ü"}) as tar:
        for name in ("./", "./x"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        sound = {"./x/1.jpg": jpeg((0, 0, 0)), "./x/1.txt": b"\xef\xbb\xbfone"}
        for name, content in [*((name, b"junk") for name in junk), *sound.items()]:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), {"LIBARCHIVE.note": "ü"}
            tar.addfile(member, io.BytesIO(content))
        for kind, name in ((tarfile.SYMTYPE, "x/2.jpg"), (tarfile.LNKTYPE, "x/3.jpg")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "x/1.jpg"
            tar.addfile(link)
    table = table_of(TarPairs(root=str(tmp_path)), tmp_path)
    assert rows(table) == [("0.tar", ("one",))]
    assert opened(tmp_path, table[0]).size == (8, 8)


def test_shards_that_were_joined_keep_the_samples_that_share_a_number(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for part in "ab":
            for name, content in (("0.jpg", jpeg((0, 0, 0))), ("0.txt", part.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    found = rows(table_of(TarPairs(root=str(tmp_path)), tmp_path))
    assert found == [("0.tar", ("a",)), ("0.tar", ("b",))]


@pytest.mark.parametrize("content", ["a dog".encode("utf-16"), "caf\u00e9".encode("latin-1")])
def test_a_text_that_is_not_utf8_is_no_caption(tmp_path: Path, content: bytes) -> None:
    write_tar(tmp_path / "0.tar", {"1.jpg": jpeg((0, 0, 0)), "1.txt": content})
    with pytest.raises(EdjeError, match=r"1\.jpg in 0\.tar: no caption, 1\.txt is unreadable"):
        table_of(TarPairs(root=str(tmp_path)), tmp_path)


def test_a_table_that_an_earlier_reading_left_is_not_taken_for_today_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_images_then_all_texts(tmp_path, ["1", "2"])
    source = TarPairs(root=str(tmp_path))
    monkeypatch.setattr("edje.data.mixture.pairs.VERSION", 1)
    earlier = table_of(source, tmp_path).path
    monkeypatch.undo()
    assert table_of(source, tmp_path).path != earlier
