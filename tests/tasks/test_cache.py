"""Claims about task=cache, and about runs that need a store which another one is writing."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_stores import contents, run_script
from world import make_world, with_changes

from edje.cli import run
from edje.errors import EdjeError

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
    other = run_script("lock", str(folder))
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    moved = [f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={tmp_path / 'run'}"]
    try:
        yield other, folder, with_changes(overrides, *moved)
    finally:
        if other.poll() is None:
            other.communicate()


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

    monkeypatch.setattr("edje.tokens.lock.logger", SimpleNamespace(info=said))
    run([*overrides, "task=train", "trainer.max_steps=1"])
    assert len(heard) == 1 and heard[0].startswith(f"waiting for process {other.pid} on ")
    assert contents(folder) == contents(world[0])
