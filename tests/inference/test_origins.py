"""What a checkpoint keeps of the one that it started from."""

import hashlib
from pathlib import Path

import pytest

from edje.inference import origins
from edje.inference.checkpoint import read_checkpoint, save_checkpoint
from edje.inference.origins import origin
from tests.tiny.rerankers import tiny_checkpoint


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    save_checkpoint(tiny_checkpoint(), tmp_path / "runs" / "a.ckpt")
    return tmp_path / "runs" / "a.ckpt"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("given", ["runs/a.ckpt", "{}"])
def test_a_local_one_is_named_without_the_folders_of_an_absolute_path(
    file: Path, given: str
) -> None:
    name = "runs/a.ckpt" if given == "runs/a.ckpt" else "a.ckpt"
    found = origin(given.format(file), read_checkpoint(file)["edje"])
    assert found == {"name": name, "sha256": digest(file), "label": "trained on nothing"}


@pytest.mark.parametrize(
    ("given", "repository"),
    [("runs/a.ckpt", None), ("photos", None), ("a/b", "a/b"), ("a/b/c.pth@v1", "a/b")],
)
def test_only_a_name_on_the_hub_gives_a_repository(
    file: Path, given: str, repository: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origins, "find_checkpoint", lambda _: file)
    found = origin(given, {"label": "coco train"})
    assert (found["name"], found.get("repository")) == (given, repository)


def test_the_home_folder_is_left_out_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent.parent))
    assert origin("~/runs/a.ckpt", {})["name"] == "a.ckpt"


def test_what_that_one_started_from_and_its_terms_are_kept(file: Path) -> None:
    fields = {"label": "a train", "notes": "n", "licence": "mit", "started_from": {"name": "b"}}
    found = origin("runs/a.ckpt", {**fields, "fusion": {}, "first_stage": {}})
    assert found == fields | {"name": "runs/a.ckpt", "sha256": digest(file)}
