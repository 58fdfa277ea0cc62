import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edje.errors import EdjeError
from edje.index.given_pictures import given_pictures, read_path, written_path
from tests.index.indexed import ODD
from tests.tiny.image_files import make_picture


def ids(source: object, prefix: str | None = None) -> list[str]:
    return [one.id for one in given_pictures(source, prefix)]


def test_a_folder_gives_its_picture_files_by_their_paths_in_it(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "rome/c.webp", "rome/old/d.tiff"):
        make_picture(tmp_path / name, 0)
    for name in (".hidden.png", ".cache/e.png", "notes.txt", "film.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "rome")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    expected = ["a.png", "b.JPG", "link.png", "rome/c.webp", "rome/old/d.tiff"]
    assert ids(tmp_path) == expected
    assert ids(f"{tmp_path}/") == ids(tmp_path / "rome" / "..") == expected
    assert ids(tmp_path, "mine/") == [f"mine/{name}" for name in expected]
    found = given_pictures(tmp_path / "rome" / "..")
    assert found[0].path == str(tmp_path / "a.png")


def test_a_path_by_itself_has_its_file_name_and_any_ending(tmp_path: Path) -> None:
    one, other = make_picture(tmp_path / "x" / "a.png", 0), tmp_path / "y" / "scan"
    make_picture(tmp_path / "y" / "scan.png", 1).rename(other)
    assert ids(str(one)) == ["a.png"]
    assert ids([other, str(one), one]) == ["a.png", "scan"]
    assert ids([tmp_path / "x", other]) == ["a.png", "scan"]


def test_pictures_and_data_sets_have_the_ids_that_they_come_with() -> None:
    from datasets import Dataset

    pixels = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    found = given_pictures({"z": pixels[0], "a": np.asarray(pixels[1]), "b": b"bytes"})
    assert [(one.id, one.path) for one in found] == [("a", None), ("b", None), ("z", None)]
    assert found[2].load() is pixels[0]
    rows = Dataset.from_dict({"image": pixels, "image_id": [17, 3]})
    rows = rows.cast_column("image", __import__("datasets").Image())
    assert ids(rows) == ["17", "3"] and ids(rows.remove_columns("image_id")) == ["0", "1"]
    loaded = given_pictures(rows)[0].load()
    assert isinstance(loaded, bytes)
    with pytest.raises(EdjeError, match=r"none named 'image'\. Rename it"):
        given_pictures(rows.rename_column("image", "photo"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: there is no file or folder to add"),
        (3, "got a int to add; expected a folder"),
        ([3], "got a list with a int; expected a folder"),
        ({"a": 3}, "got 'a': int; expected ids with pictures"),
        (b"bytes", "got a bytes to add"),
    ],
)
def test_what_is_no_source_is_named(source: object, message: str) -> None:
    with pytest.raises(EdjeError, match=message):
        given_pictures(source)


def test_two_pictures_of_one_id_are_both_named(tmp_path: Path) -> None:
    paths = [make_picture(tmp_path / name / "a.png", 0) for name in "xy"]
    with pytest.raises(EdjeError, match=r"x/a\.png and .*y/a\.png would both have the id 'a\.png'"):
        given_pictures(paths)


@pytest.mark.parametrize("name", ODD)
def test_any_name_that_a_file_system_allows_has_an_id_and_keeps_its_path(
    tmp_path: Path, name: str
) -> None:
    make_picture(tmp_path / "plain.png", 0).rename(tmp_path / name)
    (found,) = given_pictures(tmp_path)
    found.id.encode()
    assert unicodedata.is_normalized("NFC", found.id)
    assert found.path is not None and Path(found.path).is_file()
    written_path(found.path).encode()
    assert read_path(written_path(found.path)) == found.path == str(tmp_path / name)


def test_names_that_differ_in_their_form_of_unicode_alone_are_refused(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        make_picture(tmp_path / unicodedata.normalize(form, "é.png"), 0)
    with pytest.raises(EdjeError, match=r"would both have the id .* rename one of them\.$"):
        given_pictures(tmp_path)


def test_a_link_to_nothing_is_left_out_and_a_file_that_is_denied_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "denied.png"):
        make_picture(tmp_path / name, 0)
    for name, target in (
        ("long.png", f"{'x' * 300}.png"),
        ("broken.png", "absent.png"),
        ("loop.png", "loop.png"),
        ("inside.png", "a.png/b.png"),
    ):
        (tmp_path / name).symlink_to(target)
    assert ids(tmp_path) == ["a.png", "denied.png"]
    deny(monkeypatch, tmp_path / "denied.png")
    assert ids(tmp_path) == ["a.png", "denied.png"]


def deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    stat = Path.stat

    def refusing(self: Path, **choices: bool) -> object:
        if self == denied:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **choices)

    monkeypatch.setattr(Path, "stat", refusing)


def test_a_source_that_is_denied_or_that_no_file_can_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_picture(tmp_path / "a.png", 0)
    for name in ("x" * 300, "a\0b"):
        for source in (name, [name], {"a": name}):
            with pytest.raises(EdjeError, match="there is no file"):
                given_pictures(source)
    deny(monkeypatch, path)
    for source in (path, {"a": path}):
        with pytest.raises(EdjeError, match=r"a\.png can't be read: Permission denied\. Check its"):
            given_pictures(source)
