"""Claims about task=verify, through the command line's own entry."""

import json
import re
from pathlib import Path

import pytest

from edje.cli import run
from edje.errors import EdjeError
from tests.tiny.stores import make_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SHARD = "shard-00002.arrow"


def verify(folder: Path, run_folder: Path) -> None:
    run(["task=verify", f"store={folder}", f"hydra.run.dir={run_folder}"])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_sound_store_passes_and_its_report_lists_nothing(tmp_path: Path) -> None:
    verify(make_store(tmp_path / "store"), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "verify.json").read_text())
    assert report == {"store": str(tmp_path / "store"), "problems": []}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "shard-00002.arrow has changed: its checksum doesn't match"),
        (cut_off, r"shard-00002.arrow has [\d,]+ bytes, expected"),
        (Path.unlink, "shard-00002.arrow is missing"),
    ],
)
def test_damage_is_reported_by_name(tmp_path: Path, damage, message: str) -> None:
    damage(make_store(tmp_path / "store") / SHARD)
    with pytest.raises(EdjeError, match=rf"is damaged:\n  {message}.*\nDelete the folder"):
        verify(tmp_path / "store", tmp_path / "run")
    problems = json.loads((tmp_path / "run" / "verify.json").read_text())["problems"]
    assert len(problems) == 1 and re.match(message, problems[0])


def test_without_a_store_those_of_the_cache_are_named(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "cache" / "folder-val" / "raw-1")
    with pytest.raises(EdjeError, match=rf"needs store=.* there are: {folder}\."):
        run(["task=verify", f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'a'}"])
    with pytest.raises(EdjeError, match=r"no complete token store at .*nowhere"):
        verify(tmp_path / "nowhere", tmp_path / "b")


def test_of_a_folder_of_stores_those_in_it_are_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "cache" / "folder-val" / "raw-1")
    for folder in (store.parent, tmp_path / "cache"):
        with pytest.raises(EdjeError, match=rf"store={folder} is no token store, .*: {store}\."):
            verify(folder, tmp_path / f"run_{folder.name}")
