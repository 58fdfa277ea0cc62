"""Claims about task=cache, and about runs that need a store which another one is writing."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageOps

from edje.cli import run
from edje.errors import EdjeError
from edje.tokens.fingerprint import Fingerprint, store_folder
from edje.tokens.manifest import read_manifest
from tests.tiny.stores import contents, locked_elsewhere
from tests.tiny.world import make_world, with_changes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A world whose training split is in its cache, and the run's overrides."""
    root = tmp_path_factory.mktemp("world")
    overrides = make_world(root)
    run([*overrides, "task=cache"])
    return next((root / "cache" / "folder-train").glob("raw-*")), overrides


@pytest.fixture
def being_written(
    world: tuple[Path, list[str]], tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], Path, list[str]]]:
    """A process that has just begun the training split's store in another cache."""
    store, overrides = world
    folder = tmp_path / "cache" / store.parent.name / store.name
    folder.mkdir(parents=True)
    moved = [f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}"]
    with locked_elsewhere(folder) as other:
        yield other, folder, with_changes(overrides, *moved)


def test_a_store_that_is_being_written_is_an_error(being_written) -> None:
    other, folder, overrides = being_written
    with pytest.raises(EdjeError, match=rf"is being written by process {other.pid} on .* Wait"):
        run([*overrides, "task=cache"])
    assert not (folder / "plan.json").exists()


def test_training_waits_for_a_store_that_another_run_is_writing(
    being_written, world: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, folder, overrides = being_written
    heard: list[str] = []

    def said(message: str, *words: object) -> None:
        heard.append(message % words)
        other.communicate()  # ends it

    monkeypatch.setattr("edje.tokens.lock.log", SimpleNamespace(info=said))
    run([*overrides, "task=train", "trainer.max_steps=1"])
    assert len(heard) == 1 and heard[0].startswith(f"waiting for process {other.pid} on ")
    assert contents(folder) == contents(world[0])


def test_replaced_pictures_of_equal_size_are_encoded_anew(
    world: tuple[Path, list[str]], tmp_path: Path
) -> None:
    _, overrides = world
    images = tmp_path / "data"
    shutil.copytree(root_of(overrides), images)
    for path in (images / "images").iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    table = images / "captions.csv"
    table.write_text(table.read_text().replace(".png", ".bmp"))
    changes = [f"data.root={images}", f"cache_dir={tmp_path / 'cache'}", "task=cache"]
    moved = [one for one in with_changes(overrides, *changes) if "hydra.run.dir" not in one]
    run([*moved, f"hydra.run.dir={tmp_path / 'one'}"])
    for path in (images / "images").iterdir():
        ImageOps.invert(Image.open(path)).save(path)
    run([*moved, f"hydra.run.dir={tmp_path / 'two'}"])
    first, second = sorted((tmp_path / "cache" / "folder-train").glob("raw-*"))
    assert contents(first) != contents(second)


def test_a_store_of_a_former_fingerprint_is_found_and_used_and_said_to_be(
    world: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, overrides = world
    manifest = read_manifest(store / "store.json")
    fields = dict(manifest.fingerprint.fields)
    del fields["decoder"]
    former = Fingerprint(fields)
    there = store_folder(tmp_path / "cache", "folder", "train", "raw", former)
    shutil.copytree(store, there)
    replace(manifest, fingerprint=former).write(there / "store.json")
    before = contents(there)
    moved = [f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}"]
    run(with_changes(overrides, *moved, "task=cache"))
    assert list(there.parent.glob("raw-*")) == [there] and contents(there) == before
    said = capsys.readouterr().out
    line = f"reading {there}: an earlier version wrote it and recorded less of its decoder."
    assert said.count(line) == 1


def root_of(overrides: list[str]) -> str:
    (root,) = (one.partition("=")[2] for one in overrides if one.startswith("data.root="))
    return root
