"""Claims about what an addition reads, encodes and writes."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edje import ImageIndex, Reranker
from edje.errors import EdjeError
from edje.images.decoder import MissingDecoder
from edje.index import image_index
from edje.index.additions import Added, Addition
from edje.index.image_table import KEY, ImageTable, Row
from tests.index.indexed import ODD, contents
from tests.tiny.image_files import make_picture

both_ways = pytest.mark.usefixtures("knowing")


@pytest.fixture(params=["read", "looked up"])
def knowing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the index knows is read as a whole, or as of a large index, looked up."""
    if request.param == "looked up":
        monkeypatch.setattr("edje.index.additions.ROWS_READ", 0)
        monkeypatch.setattr("edje.index.image_table.INDEXED_FROM", 1)


def touch(path: Path) -> None:
    """Give a file another time of modification."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def test_stored_numbers_are_those_of_the_reranker(
    index: ImageIndex, ranker: Reranker, pictures: Path
) -> None:
    assert index.add(pictures, batch_size=5) == Added(new=12)
    assert index.ids() == sorted(str(p.relative_to(pictures)) for p in pictures.rglob("*.png"))
    found = contents(index)
    paths = [pictures / name for name in found]
    expected = ranker.encode(paths, batch_size=5)
    embeddings = torch.tensor([row["embedding"] for row in found.values()])
    torch.testing.assert_close(embeddings, expected.embeddings, atol=1e-6, rtol=0)
    cells = ranker.picture_encoder.compressed.encode(expected.tokens)
    assert [row["cell"] for row in found.values()] == [cell.tobytes() for cell in cells]
    assert {row["path"] for row in found.values()} == set(map(str, paths))
    assert {(row["width"], row["height"]) for row in found.values()} == {(32, 32)}


@both_ways
def test_the_second_addition_encodes_what_is_new_or_changed_alone(
    index: ImageIndex, pictures: Path, encoded: list[int]
) -> None:
    index.add(pictures)
    before, version = contents(index), index.stats().version
    assert index.add(pictures) == Added(unchanged=12)
    assert index.stats().version == version
    make_picture(pictures / "new.png", 1)
    make_picture(pictures / "000.png", 2)
    touch(pictures / "001.png")
    encoded.clear()
    assert index.add(pictures) == Added(new=1, changed=1, touched=1, unchanged=10)
    assert encoded == [2]
    after = contents(index)
    assert {name for name in after if after[name] != before.get(name)} == {"000.png", "new.png"}
    assert after["000.png"]["cell"] != before["000.png"]["cell"]
    assert index.add(pictures) == Added(unchanged=13)


@both_ways
def test_a_moved_file_keeps_its_tokens_and_gets_the_new_id(
    index: ImageIndex, pictures: Path, encoded: list[int]
) -> None:
    index.add(pictures, columns={"album": "summer"})
    before = contents(index)
    (pictures / "rome").mkdir()
    (pictures / "000.png").rename(pictures / "rome" / "first.png")
    (pictures / "more").rename(pictures / "less")
    encoded.clear()
    assert index.add(pictures) == Added(moved=5, unchanged=7)
    assert encoded == []
    after = contents(index)
    assert len(after) == 12 and "000.png" not in after
    assert after["rome/first.png"]["cell"] == before["000.png"]["cell"]
    assert after["less/010.png"]["embedding"] == before["more/010.png"]["embedding"]
    hits = index.search("red", where="album = 'summer'", top=20)
    assert len(hits) == 12 and {Path(hit.path or "").is_file() for hit in hits} == {True}


@both_ways
def test_copies_share_tokens_and_stay_pictures_of_their_own(
    index: ImageIndex, pictures: Path, encoded: list[int]
) -> None:
    index.add(pictures, columns={"album": "summer"})
    shutil.copy(pictures / "000.png", pictures / "copy.png")
    shutil.copy(pictures / "001.png", pictures / "002.png")
    encoded.clear()
    assert index.add(pictures) == Added(new=1, changed=1, unchanged=11)
    assert encoded == []
    found = contents(index)
    assert found["copy.png"]["cell"] == found["000.png"]["cell"]
    assert found["002.png"]["cell"] == found["001.png"]["cell"]
    assert len(index.search("red", where="album IS NULL", top=20)) == 1  # the copy


@both_ways
def test_files_that_exchange_their_names_exchange_their_tokens(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    before = contents(index)
    (pictures / "000.png").rename(pictures / "aside.png")
    (pictures / "001.png").rename(pictures / "000.png")
    (pictures / "aside.png").rename(pictures / "001.png")
    assert index.add(pictures, batch_size=1) == Added(changed=2, unchanged=10)
    after = contents(index)
    assert after["000.png"]["cell"] == before["001.png"]["cell"]
    assert after["001.png"]["cell"] == before["000.png"]["cell"]


@pytest.mark.parametrize("writes", [0, 1, 3])
@pytest.mark.parametrize("has_written", [False, True])
def test_an_interrupted_addition_goes_on_where_it_was(
    index: ImageIndex,
    ranker: Reranker,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    has_written: bool,
) -> None:
    """To the same numbers: the pictures that go through the tower together are the same."""
    (pictures / "003.png").write_bytes(b"broken")
    write, left = ImageTable.write, [writes]

    def interrupted(self: ImageTable, rows: Sequence[Row], known: bool) -> None:
        left[0] -= 1
        if left[0] >= 0 or has_written:
            write(self, rows, known)
        if left[0] < 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edje.index.additions.GROUPS", 1)
        patch.setattr(ImageTable, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.add(pictures, batch_size=2)
    rows = 2 * (writes + has_written)
    assert len(contents(index)) == rows
    assert index.add(pictures, batch_size=2).unchanged == rows
    peace = ImageIndex.open(tmp_path / "peace.edje", ranker)
    peace.add(pictures, batch_size=2)
    assert contents(index) == contents(peace)


@both_ways
def test_what_cannot_be_read_is_listed_and_not_tried_again_until_it_changes(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "003.png").write_bytes(b"no picture")
    (pictures / "empty.jpg").write_bytes(b"")
    assert index.add(pictures) == Added(new=11, problems=2)
    assert [(one.id, one.reason) for one in index.problems()] == [
        ("003.png", "no image of a known format"),
        ("empty.jpg", "the file is empty"),
    ]
    assert len(index) == 11 and "003.png" not in index.ids()
    assert index.stats().problems == 2
    with monkeypatch.context() as patch:
        patch.setattr("edje.index.additions.decoded", None)
        assert index.add(pictures) == Added(unchanged=13)
        touch(pictures / "003.png")
        assert index.add(pictures) == Added(touched=1, unchanged=12)
    assert len(index.problems()) == 2
    assert "003.png" not in {hit.id for hit in index.search("red", top=20)}
    make_picture(pictures / "003.png", 3)
    assert index.add(pictures) == Added(changed=1, unchanged=12)
    assert [one.id for one in index.problems()] == ["empty.jpg"]
    (pictures / "004.png").write_bytes(b"broken since")
    assert index.add(pictures) == Added(problems=1, unchanged=12)
    assert len(index) == 11


@pytest.mark.parametrize("cause", [MissingDecoder("pip install it"), MemoryError()])
def test_a_picture_that_failed_for_a_cause_outside_it_is_tried_again(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edje.index.additions.decoded", raising(cause))
        assert index.add(pictures / "000.png") == Added(problems=1)
        assert index.add(pictures / "000.png") == Added(problems=1)
    assert index.add(pictures / "000.png") == Added(changed=1)
    assert index.problems() == [] and index.ids() == ["000.png"]


def test_a_picture_that_the_disk_did_not_give_is_tried_again(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("edje.index.additions._hash", raising(OSError("the disk")))
        assert index.add(pictures / "000.png") == Added(problems=1)
    assert index.problems()[0].reason == "the disk"
    assert index.add(pictures / "000.png") == Added(changed=1)


@pytest.mark.parametrize(
    ("reads", "cause"),
    [
        ("_hash", PermissionError(13, "Permission denied")),
        ("decoded", MissingDecoder("pip install it")),
        ("decoded", MemoryError()),
    ],
)
def test_a_cause_outside_a_file_takes_nothing_of_it_from_the_index(
    index: ImageIndex,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reads: str,
    cause: Exception,
) -> None:
    index.add(pictures, columns={"album": "summer"})
    before = contents(index)
    make_picture(pictures / "000.png", 2)
    make_picture(pictures / "001.png", 3)
    with monkeypatch.context() as patch:
        patch.setattr(f"edje.index.additions.{reads}", raising(cause))
        assert index.add(pictures) == Added(problems=2, unchanged=10)
        assert index.sync(pictures) == Added(problems=2, unchanged=10)
        with pytest.raises(EdjeError, match=r"000\.png can't be read as a picture"):
            index.add(pictures, on_error="raise")
    said = [one.getMessage() for one in caplog.records]
    assert (
        len(said) == 2
        and "000.png can't be read now" in said[0]
        and "such pictures stay" in said[0]
    )
    assert contents(index) == before and index.problems() == []
    assert len(index.search("red", where="album = 'summer'", top=20)) == 12
    assert index.add(pictures) == Added(changed=2, unchanged=10)


def refusing_pictures(call: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(path: Any, *args: Any, **choices: Any) -> Any:
        if str(path).endswith(".png"):
            raise PermissionError(13, "Permission denied")
        return call(path, *args, **choices)

    return refusing


def test_a_disk_that_refuses_for_a_moment_takes_nothing_from_the_index(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    index.add(pictures)
    before = contents(index)
    encoded.clear()
    with monkeypatch.context() as patch:
        for home, name in ((os, "lstat"), (Path, "stat"), (Path, "open")):
            patch.setattr(home, name, refusing_pictures(getattr(home, name)))
        assert index.sync(pictures) == Added(problems=12)
    assert contents(index) == before
    assert index.add(pictures) == Added(unchanged=12) and encoded == []


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"batch_size": -1}, "batch_size=-1: expected a whole number of 1 or more"),
        ({"batch_size": 0}, "batch_size=0: expected a whole number of 1 or more"),
        ({"on_error": "ignore"}, "on_error='ignore': expected record or raise"),
        ({"engine": "Local"}, "engine='Local': expected local, ray, or a RayEngine"),
        ({"prefix": Path("home")}, r"prefix=PosixPath\('home'\): expected a text"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_choice_that_is_none_is_refused_before_anything_is_written(
    index: ImageIndex, pictures: Path, choices: dict[str, Any], said: str
) -> None:
    index.sync(pictures)
    (pictures / "000.png").rename(pictures / "moved.png")
    for call in (index.add, *([] if "engine" in choices else [index.sync])):
        with pytest.raises(EdjeError, match=said):
            call(pictures, **choices)
    assert "000.png" in index.ids()


def test_a_file_that_was_never_there_is_named(index: ImageIndex, pictures: Path) -> None:
    with pytest.raises(EdjeError, match=r"'zz': there is no file nope\.png"):
        index.add({"aa": pictures / "000.png", "zz": "nope.png"})
    assert len(index) == 0


def test_an_empty_prefix_is_none_and_a_name_may_begin_with_a_tilde(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures, prefix="")
    assert "000.png" in index.ids()
    monkeypatch.chdir(pictures)
    (pictures / "000.png").rename("~nobody.png")
    assert index.add("~nobody.png") == Added(moved=1)


@pytest.mark.usefixtures("unchecked")
def test_ids_are_a_list_of_texts(index: ImageIndex, pictures: Path) -> None:
    index.add(pictures)
    ids = index.ids()
    assert index.rerank("red", iter(ids[:2])) == index.rerank("red", ids[:2])
    assert len(index.search_many(iter(["red", "blue"]))) == 2
    for name in ("encoded", "remove", "rerank"):
        call = getattr(index, name) if name != "rerank" else lambda ids: index.rerank("red", ids)
        with pytest.raises(EdjeError, match=f"{name}: got 1 among the ids, expected texts"):
            call([1])
        with pytest.raises(EdjeError, match=f"{name}: got '000.png', expected a list of ids"):
            call("000.png")
    assert index.remove(iter(ids[:2])) == 2


def test_with_raise_the_first_unreadable_picture_ends_it_and_what_came_before_is_kept(
    index: ImageIndex, pictures: Path
) -> None:
    (pictures / "005.png").write_bytes(b"no picture")
    with pytest.raises(EdjeError, match=r"005\.png can't be read as a picture \(no image of a"):
        index.add(pictures, on_error="raise", batch_size=2)
    assert index.ids() == ["000.png", "001.png", "002.png", "003.png"]
    assert index.add(pictures) == Added(new=7, unchanged=4, problems=1)


@both_ways
def test_an_id_that_another_picture_has_is_refused_unless_there_is_a_prefix(
    index: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    index.add(pictures)
    other = tmp_path / "other"
    make_picture(other / "000.png", 9)
    before = contents(index)
    with pytest.raises(
        EdjeError, match=r"other/000\.png would have the id '000\.png', which .*ref"
    ):
        index.add(other)
    assert contents(index) == before
    assert index.add(other, prefix="other") == Added(new=1)
    assert "other/000.png" in index.ids()
    with pytest.raises(EdjeError, match="a picture without a file would have the id"):
        index.add({"000.png": Image.new("RGB", (8, 8))})


@both_ways
def test_a_folder_that_has_moved_as_a_whole_keeps_its_ids_and_tokens(
    index: ImageIndex, pictures: Path, tmp_path: Path, encoded: list[int]
) -> None:
    index.add(pictures)
    before = contents(index)
    pictures.rename(tmp_path / "elsewhere")
    encoded.clear()
    assert index.add(tmp_path / "elsewhere") == Added(touched=12)
    assert encoded == []
    after = contents(index)
    assert {row["path"] for row in after.values()} == {
        row["path"].replace("/pictures/", "/elsewhere/") for row in before.values()
    }
    assert [row["cell"] for row in after.values()] == [row["cell"] for row in before.values()]


@both_ways
def test_pictures_without_files_are_known_by_their_pixels(
    index: ImageIndex, encoded: list[int]
) -> None:
    one, other = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    assert index.add({"a": one, "b": np.asarray(other)}) == Added(new=2)
    assert index.add({"a": one, "b": other}) == Added(unchanged=2)
    assert encoded == [2]
    assert index.add({"a": Image.new("RGB", (8, 9), "red")}) == Added(changed=1)
    assert {hit.path for hit in index.search("red")} == {None}


def test_a_data_set_is_added_and_broken_rows_are_listed(index: ImageIndex, scenes: Path) -> None:
    from datasets import Dataset
    from datasets import Image as Pictures

    paths = sorted(map(str, scenes.iterdir()))[:3]
    content = [{"bytes": Path(path).read_bytes(), "path": None} for path in paths]
    content[1]["bytes"] = b"broken"
    rows = Dataset.from_dict({"image": content, "id": ["x", "y", "z"]})
    rows = rows.cast_column("image", Pictures())
    assert index.add(rows) == Added(new=2, problems=1)
    assert index.ids() == ["x", "z"] and [one.id for one in index.problems()] == ["y"]
    assert index.add(rows) == Added(unchanged=3)


@both_ways
def test_names_of_any_kind_are_added_found_moved_and_removed(
    index: ImageIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    for seed, name in enumerate(ODD):
        make_picture(folder / "plain.png", seed).rename(folder / name)
    assert index.add(folder) == Added(new=len(ODD))
    assert index.add(folder) == Added(unchanged=len(ODD))
    hits = index.search("red", top=50)
    assert {hit.path for hit in hits} == {str(folder / name) for name in ODD}
    assert [hit.id for hit in index.rerank("red", [hit.id for hit in hits])] == [
        hit.id for hit in hits
    ]
    folder.rename(tmp_path / "moved\nfolder")
    assert index.add(tmp_path / "moved\nfolder") == Added(touched=len(ODD))
    assert index.remove(index.ids()) == len(ODD) and len(index) == 0


def test_a_file_that_goes_while_it_is_added_is_left_out(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edje.index import image_index

    list_all = image_index.given_pictures

    def listed(source: object, prefix: str | None) -> object:
        found = list_all(source, prefix)
        (pictures / "001.png").unlink()
        make_picture(pictures / "002.png", 7)  # another one, under the name that was listed
        return found

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "given_pictures", listed)
        assert index.add(pictures) == Added(new=11, gone=1)
    assert index.problems() == [] and "001.png" not in index.ids()
    assert index.add(pictures) == Added(unchanged=11)


def test_a_file_that_changes_while_it_is_read_is_read_again_next_time(
    index: ImageIndex, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edje.index import additions

    hashing = additions._hash
    monkeypatch.setattr(
        additions,
        "_hash",
        lambda content: (touch(pictures / "000.png"), hashing(content))[1],
    )
    index.add(pictures / "000.png")
    monkeypatch.undo()
    assert index.add(pictures / "000.png") == Added(touched=1)
    assert index.add(pictures / "000.png") == Added(unchanged=1)


@both_ways
def test_sync_removes_what_came_from_the_folder_and_is_gone(
    index: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    elsewhere = make_picture(tmp_path / "elsewhere" / "own.png", 1)
    index.add(elsewhere)
    index.add({"drawn": Image.new("RGB", (8, 8))})
    (pictures / "broken.png").write_bytes(b"broken")
    assert index.sync(pictures) == Added(new=12, problems=1)
    for name in ("000.png", "more/008.png", "broken.png"):
        (pictures / name).unlink()
    (pictures / "001.png").rename(pictures / "moved.png")
    make_picture(pictures / "new.png", 2)
    elsewhere.unlink()
    assert index.sync(pictures) == Added(new=1, moved=1, unchanged=9, removed=3)
    expected = {str(path.relative_to(pictures)) for path in pictures.rglob("*.png")}
    assert set(index.ids()) == expected | {"own.png", "drawn"} and index.problems() == []


def test_sync_of_a_folder_that_is_not_there_or_empty_removes_nothing(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    shutil.rmtree(pictures)
    with pytest.raises(EdjeError, match=r"is not a folder\. Nothing was removed"):
        index.sync(pictures)
    pictures.mkdir()
    with pytest.raises(EdjeError, match="has no pictures, but the index has 12 of it"):
        index.sync(pictures)
    assert len(index) == 12


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_disk_that_goes_away_while_it_is_synchronised_takes_nothing_from_the_index(
    index: ImageIndex,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    comes_back: bool,
) -> None:
    index.add(pictures)
    for number in range(4):
        make_picture(pictures / f"new{number}.png", number)
    rows, listing = Addition._rows, image_index.files_under

    def away(self: Addition, group: Any) -> list[Row]:
        if not (tmp_path / "away").exists():
            pictures.rename(tmp_path / "away")
            pictures.mkdir()
        return rows(self, group)

    def back(folder: Path) -> Iterator[Path]:
        if comes_back:
            pictures.rmdir()
            (tmp_path / "away").rename(pictures)
        return listing(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Addition, "_rows", away)
        patch.setattr(image_index, "files_under", back)
        if comes_back:
            assert index.sync(pictures, batch_size=1).removed == 0
        else:
            with pytest.raises(EdjeError, match=r"has no pictures, but the index has 1\d of it"):
                index.sync(pictures, batch_size=1)
    assert len([name for name in index.ids() if not name.startswith("new")]) == 12


def test_a_picture_on_a_disk_that_fails_keeps_its_id(
    index: ImageIndex, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures)
    before = contents(index)
    other = make_picture(tmp_path / "other" / "000.png", 9)
    monkeypatch.setattr(Path, "samefile", raising(OSError(5, "Input/output error")))
    with pytest.raises(EdjeError, match=r"other/000\.png would have the id '000\.png'"):
        index.add(other)
    assert contents(index) == before


@both_ways
def test_a_folder_and_a_link_to_it_are_the_same_source(
    index: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(pictures)
    index.add(link)
    (pictures / "000.png").unlink()
    assert index.sync(pictures) == Added(unchanged=11, removed=1)
    (pictures / "001.png").unlink()
    assert index.sync(link) == Added(unchanged=10, removed=1)


def test_a_folder_and_a_link_to_it_have_the_same_pictures(
    index: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(pictures)
    assert index.add(link) == Added(new=12)
    assert index.add(pictures) == index.sync(link) == Added(unchanged=12)


@both_ways
def test_a_link_that_leads_to_another_folder_now_has_the_pictures_of_that(
    index: ImageIndex, pictures: Path, tmp_path: Path
) -> None:
    current, later = tmp_path / "current", tmp_path / "later"
    current.symlink_to(pictures)
    index.sync(current)
    for number, name in enumerate(["000.png", "001.png", "new.png"]):
        make_picture(later / name, 50 + number)
    current.unlink()
    current.symlink_to(later)
    assert index.sync(current) == Added(new=1, changed=2, removed=10)
    assert sorted(index.ids()) == ["000.png", "001.png", "new.png"]


@both_ways
def test_pictures_that_get_a_second_id_are_told(
    index: ImageIndex, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index.add(pictures, prefix="home")
    index.add(pictures, prefix="home")
    index.add({"home/000.png": pictures / "000.png", "new": Image.new("RGB", (8, 8))})
    assert caplog.records == []
    assert index.add(pictures / "more") == Added(new=4)
    (said,) = (one.getMessage() for one in caplog.records)
    assert said.startswith("4 of these pictures are in the index under other ids, such as ")
    assert "'home/more/0" in said
    index.add(pictures / "more")
    assert len(caplog.records) == 1


def test_a_small_addition_to_a_large_index_reads_few_of_its_rows(
    index: ImageIndex, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add(pictures)
    monkeypatch.setattr("edje.index.additions.ROWS_READ", 5)
    read: list[int] = []
    scan = ImageTable.scan

    def counting(self: ImageTable, columns: Sequence[str], where: str | None = None) -> Any:
        for batch in scan(self, columns, where):
            if list(columns) != [KEY]:
                read.append(len(batch))
            yield batch

    monkeypatch.setattr(ImageTable, "scan", counting)
    assert index.add({"one": Image.new("RGB", (8, 8))}) == Added(new=1)
    assert sum(read) == 0
    shutil.move(pictures / "000.png", tmp_path / "moved.png")
    assert index.add(tmp_path / "moved.png") == Added(moved=1)
    assert sum(read) == 2  # what is known of it, and the row itself
    read.clear()
    paths = [pictures / f"00{number}.png" for number in (1, 2, 3)]
    assert index.add(paths) == Added(unchanged=3)  # not few
    assert sum(read) == 13


@pytest.mark.usefixtures("unchecked")
def test_pieces_grow_with_the_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version lists all pieces: in equal ones, the lists of many would outgrow the rows."""
    count = 400_000

    class Counted(Addition):
        def _rows(self, group: Sequence[Any]) -> list[Row]:
            return [{}] * len(group)

    read: Future[None] = Future()
    read.set_result(None)
    groups = ([read] * 32 for _ in range(0, count, 32))
    monkeypatch.setattr("edje.index.additions.prepared_ahead", lambda *_: groups)
    none: Any = None
    addition = Counted(none, none, [], none, 0, batch_size=32, on_error="record", values=dict)
    sizes = [len(piece) for piece in addition.pieces()]
    assert sum(sizes) == count and sizes[0] == 256 and max(sizes) == 4096
    assert len(sizes) < 250 and sizes[:-1] == sorted(sizes[:-1])
    ends = np.cumsum(sizes)
    assert all(size <= max(256, end / 16) for size, end in zip(sizes, ends, strict=True))


def test_removing_says_how_many_and_names_what_is_not_there(
    index: ImageIndex, pictures: Path
) -> None:
    index.add(pictures)
    with pytest.raises(EdjeError, match=r"1 of 2 ids are not in the index, such as 'absent'"):
        index.remove(["000.png", "absent"])
    assert index.remove(["000.png", "more/008.png"]) == 2
    assert len(index) == len(index.ids()) == 10
    assert index.add(pictures) == Added(new=2, unchanged=10)
