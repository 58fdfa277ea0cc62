"""Claims about tars and Parquet files as sources of an index."""

import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edje import EdjeError, ImageIndex, Reranker
from edje.index.additions import Added
from edje.index.given_pictures import ShardFile
from edje.index.shards import Shard, ShardReader, TarPictures
from tests.index.indexed import contents
from tests.tiny.image_files import make_picture, make_tar


def make_parquet(path: Path, rows: dict[str, list], group: int = 2) -> Path:
    """A Parquet file of groups of two rows."""
    pq.write_table(pa.table(rows), path, row_group_size=group)
    return path


def test_a_tar_gives_what_a_folder_of_its_name_would(
    index: ImageIndex, ranker: Reranker, tmp_path: Path
) -> None:
    members = {"a.png": 1, "deep/b.left.png": 2, "c.png": 3, "deep/d.png": 4}
    tar = make_tar(tmp_path / "shard-7.tar", members)
    with tarfile.open(tar, "a") as more:
        for name in (".hidden.png", "__MACOSX/._a.png"):
            more.addfile(tarfile.TarInfo(name))
    assert index.add(tmp_path / "*.tar") == Added(new=4)
    assert index.ids() == [f"shard-7/{name}" for name in sorted(members)]
    folder = ImageIndex.open(tmp_path / "folder.edje", ranker)
    folder.add(tmp_path / "of shard-7", prefix="shard-7")
    found, expected = contents(index), contents(folder)
    for row in expected.values():
        row |= {"path": str(tar), "embedding": pytest.approx(row["embedding"], abs=1e-6)}
    assert found == expected
    assert index.search("red", top=1)[0].path == str(tar)


def test_a_shard_is_known_by_its_size_and_time_and_its_pictures_by_their_content(
    index: ImageIndex, tmp_path: Path
) -> None:
    tar = make_tar(tmp_path / "tar.tar", {"a.png": 1, "b.png": 2})
    index.add(tar)
    version = index.stats().version
    assert index.add(tar) == Added(unchanged=2)
    assert index.stats().version == version
    os.utime(tar, ns=(0, 10**18))
    assert index.add(tar) == Added(touched=2)
    make_tar(tar, {"a.png": 1, "b.png": 5, "c.png": 3})
    assert index.add(tar) == Added(new=1, changed=1, touched=1)
    tar.rename(tmp_path / "renamed.tar")
    assert index.add(tmp_path / "renamed.tar") == Added(moved=3)
    assert index.ids() == ["renamed/a.png", "renamed/b.png", "renamed/c.png"]


def test_a_tar_that_the_disk_does_not_give_is_tried_again_and_takes_nothing_from_the_index(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = make_tar(tmp_path / "tar.tar", {"a.png": 1, "b.png": 2})
    index.add(tar)
    before = contents(index)
    make_tar(tar, {"a.png": 3, "b.png": 2, "c.png": 4})

    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("edje.index.shards._check_same", failing)
        assert index.add(tar) == Added(problems=3)
    found = contents(index)
    assert "Input/output error" in found.pop("tar/c.png")["problem"] and found == before
    assert index.add(tar) == Added(changed=2, touched=1)


@pytest.mark.parametrize("kind", ["structs", "bytes"])
def test_a_parquet_file_gives_its_images_by_its_ids_or_row_numbers(
    index: ImageIndex, tmp_path: Path, kind: str
) -> None:
    content = [make_picture(tmp_path / f"{n}.png", n).read_bytes() for n in range(5)]
    images = content if kind == "bytes" else [{"bytes": one, "path": None} for one in content]
    named = make_parquet(
        tmp_path / "named.parquet", {"image": images, "image_id": ["z", "y", "x", "w", "v"]}
    )
    plain = make_parquet(tmp_path / "plain.parquet", {"image": images, "text": ["?"] * 5})
    assert index.add([named, plain], batch_size=2) == Added(new=10)
    assert index.ids() == [*(f"named/{one}" for one in "vwxyz"), *(f"plain/{n}" for n in range(5))]
    found = contents(index)
    assert found["named/z"]["hash"] == found["plain/0"]["hash"] != found["named/y"]["hash"]


def test_a_broken_shard_is_a_problem_until_it_is_mended(index: ImageIndex, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "tar.tar", {f"{n}.png": n for n in range(3)})
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.tar").write_bytes(b"no tar" * 1000)
    (tmp_path / "empty.tar").touch()
    (tmp_path / "neither.parquet").write_bytes(b"no table")
    images = {"image": [None, b"no picture"]}
    make_parquet(tmp_path / "bad.parquet", {"image": pa.array(images["image"], pa.binary())})
    index.add([tmp_path / "*.tar", tmp_path / "*.parquet"])
    problems = {one.id: one.reason for one in index.problems()}
    cut = {"tar/1.png"}  # which the tar's half ends in
    assert problems.keys() == {"tar", "no", "empty", "neither", "bad/0", "bad/1"} | cut
    assert problems["bad/0"] == "the row has no bytes of a picture"
    assert problems["bad/1"] == "no image of a known format"
    assert "the tar is broken after" in problems["tar"]
    tar.write_bytes(whole)
    index.add(tar)
    assert {f"tar/{n}.png" for n in range(3)} <= set(index.ids())
    assert not [one for one in index.problems() if one.id.startswith("tar")]


def test_a_bad_header_in_the_middle_of_a_tar_is_no_end(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "tar.tar", {f"{n}.png": n for n in range(3)})
    with tarfile.open(tar) as opened:
        second = opened.getmember("1.png").offset
    content = bytearray(tar.read_bytes())
    content[second : second + 100] = b"x" * 100
    tar.write_bytes(content)
    given = Shard("tar", str(tar)).pictures()
    assert [one.id for one in given] == ["tar/0.png", "tar"]
    with pytest.raises(OSError, match="broken after 1 pictures"):
        given[1].load()


def test_a_tar_without_its_end_gives_its_pictures_and_a_problem(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "tar.tar", {"0.png": 0, "1.png": 1})
    with tarfile.open(tar) as opened:
        opened.getmembers()
        end = opened.offset
    tar.write_bytes(tar.read_bytes()[:end])
    given = Shard("tar", str(tar)).pictures()
    assert [one.id for one in given] == ["tar/0.png", "tar/1.png", "tar"]
    with pytest.raises(OSError, match="broken after 2 pictures: no end of archive"):
        given[2].load()


def test_a_picture_of_a_shard_that_changed_meanwhile_is_a_problem(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "tar.tar", {"a.png": 1})
    rows = {"image": pa.array([b"picture"], pa.binary())}
    table = make_parquet(tmp_path / "table.parquet", rows)
    for path in (tar, table):
        given = Shard("lead", str(path)).pictures()[0]
        os.utime(path, ns=(0, 10**18))
        with pytest.raises(OSError, match="changed meanwhile"):
            given.load()


def test_sources_whose_ids_could_clash_are_refused(index: ImageIndex, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "same.tar", {"a.png": 1})
    table = make_parquet(tmp_path / "same.parquet", {"image": [b"", b""], "id": ["a", "a"]})
    for source, words in (
        ([tar, table], "would both begin with same/"),
        ([tar, tmp_path / "more"], "both begin with same/"),
        (table, "two pictures have the id 'same/a'"),
        (
            make_parquet(tmp_path / "x.parquet", {"text": ["a"]}),
            "expected one named 'image'",
        ),
        (
            make_parquet(tmp_path / "y.parquet", {"image": ["a"]}),
            "of bytes or as data sets have it",
        ),
    ):
        make_picture(tmp_path / "more" / "same" / "b.png", 2)
        with pytest.raises(EdjeError, match=words):
            index.add(source)
    assert len(index) == 0
    index.add(tar, prefix="one")
    with pytest.raises(EdjeError, match="Give a prefix"):
        index.add(make_tar(tmp_path / "else" / "one" / "same.tar", {"a.png": 1}), prefix="one")


def test_a_picture_of_a_shard_is_read_by_its_id_under_any_lead(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "tar.tar", {"a.png": 1, "tar/a.png": 2, "tar/tar/a.png": 3})
    expected = [(tmp_path / "of tar" / name).read_bytes() for name in ("a.png", "tar/a.png")]
    reader = ShardReader()
    for lead in ("tar", "prefix/tar"):
        found = [reader.content(str(tar), f"{lead}/{name}") for name in ("a.png", "tar/a.png")]
        assert found == expected
    assert reader.content(str(tar), "an id of one's own/a.png") == expected[0]
    with pytest.raises(OSError, match=r"has no picture 'tar/b\.png'"):
        reader.content(str(tar), "tar/b.png")


def test_a_shard_that_several_threads_need_is_opened_once_and_anew_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    class Counted(TarPictures):
        def __init__(self, file: ShardFile):
            opened.append(file.size)
            super().__init__(file)

    monkeypatch.setattr("edje.index.shards.TarPictures", Counted)
    tar = make_tar(tmp_path / "tar.tar", {"a.png": 1, "b.png": 2})
    reader = ShardReader()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: reader.content(str(tar), f"tar/{name}"), ["a.png", "b.png"] * 4))
    assert len(opened) == 1
    make_tar(tar, {"a.png": 3, "b.png": 2, "c.png": 4})
    changed = (tmp_path / "of tar" / "a.png").read_bytes()
    assert reader.content(str(tar), "tar/a.png") == changed
    assert len(opened) == 2
