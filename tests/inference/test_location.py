"""Claims about where checkpoints are found: paths first, then the hub and its cache."""

import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

import edje
from edje.errors import EdjeError
from edje.inference.checkpoint import load_checkpoint, save_checkpoint
from edje.inference.location import SHIPPED, find_checkpoint, hub_name
from edje.inference.reranker import Reranker
from edje.inference.saved_folder import save_folder
from tests.tiny.hub_cache import put_into_cache
from tests.tiny.rerankers import tiny_checkpoint

NAME = "somebody/reranker"
STATE = {"vision_projection.query": torch.zeros(1, 2, 3)}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path, monkeypatch) -> Path:
    """The folder of a repository's files in the hub's cache; the working directory is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    repository = tmp_path / "hub" / "models--somebody--reranker"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("a card")
    return folder


def write_published(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save({"model": STATE}, path)
    return path


def write_other(path: Path) -> Path:
    torch.save({"step": 3, "exp_avg": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize("name", ["x.pth", "epoch 3.pt", "pytorch_model.bin", "a/m.safetensors"])
def test_the_one_file_of_a_repository_is_found_whatever_it_is_called(snapshot, name) -> None:
    path = write_published(snapshot / name)
    assert find_checkpoint(Path(NAME)) == path
    assert find_checkpoint(Path(f"{NAME}/{name}")) == path


def test_among_several_files_the_one_of_the_published_format_is_meant(snapshot) -> None:
    write_other(snapshot / "optimizer.pt")
    save_file({"weight": torch.zeros(1)}, snapshot / "vision.safetensors")
    path = write_published(snapshot / "model.pth")
    assert find_checkpoint(Path(NAME)) == path


def test_several_of_the_published_format_are_named_and_one_can_be_chosen(snapshot) -> None:
    write_other(snapshot / "optimizer.pt")
    local = write_published(snapshot / "large" / "local.pth")
    write_published(snapshot / "compressed.safetensors")
    with pytest.raises(
        EdjeError, match=rf"={NAME}: 2 .*\(compressed\.safetensors, large/local\.pth\)\. Name the"
    ):
        find_checkpoint(Path(NAME))
    assert find_checkpoint(Path(f"{NAME}/large/local.pth")) == local


def test_a_repository_without_a_fitting_file_says_what_it_has(snapshot) -> None:
    with pytest.raises(EdjeError, match=rf"the repository {NAME} has no \.pth or "):
        find_checkpoint(Path(NAME))
    write_other(snapshot / "optimizer.pt")
    with pytest.raises(EdjeError, match=r"has no model\.pth; it has optimizer\.pt\. Name one"):
        find_checkpoint(Path(f"{NAME}/model.pth"))
    write_other(snapshot / "scheduler.pt")
    with pytest.raises(EdjeError, match=r"none of its files is in the published .*scheduler\.pt"):
        find_checkpoint(Path(NAME))


@pytest.mark.parametrize("name", ["somebody/rerankre", "runs/shapes"])
def test_a_name_that_the_hub_and_its_cache_lack_is_one_clear_error(snapshot, name) -> None:
    with pytest.raises(EdjeError, match=rf"={name}: no such file or folder exists, .*hf download"):
        find_checkpoint(Path(name))


def test_whatever_lies_at_the_path_wins_over_the_hub(snapshot) -> None:
    write_published(snapshot / "model.pth")
    folder = Path(NAME)
    own = folder / "checkpoints" / "last.ckpt"
    own.parent.mkdir(parents=True)
    with pytest.raises(EdjeError, match="found no checkpoint there"):
        find_checkpoint(folder)
    downloaded = write_published(folder / "downloaded.pth")
    assert find_checkpoint(folder) == downloaded
    save_checkpoint(tiny_checkpoint(), own)
    assert find_checkpoint(folder) == own, "a run folder is one, whatever else lies in it"
    shutil.rmtree(folder)
    shutil.copyfile(snapshot / "model.pth", folder)
    assert find_checkpoint(folder) == folder, "a file without a suffix"


def saved(folder: Path) -> Path:
    save_folder(tiny_checkpoint(), folder)
    return folder


def test_a_saved_folder_is_found_alone_in_a_run_and_by_its_weights(tmp_path) -> None:
    weights = saved(tmp_path / "saved") / "model.safetensors"
    assert find_checkpoint(tmp_path / "saved") == find_checkpoint(weights) == weights
    left = saved(tmp_path / "run" / "pretrained") / "model.safetensors"
    (tmp_path / "run" / "checkpoints").mkdir()
    assert find_checkpoint(tmp_path / "run") == left
    own = tmp_path / "run" / "checkpoints" / "model.ckpt"
    save_checkpoint(tiny_checkpoint(), own)
    assert find_checkpoint(tmp_path / "run") == own
    assert load_checkpoint(left).label == load_checkpoint(own).label


def test_a_saved_folder_of_a_repository_is_found(snapshot) -> None:
    for file in saved(snapshot.parents[3] / "saved").iterdir():
        shutil.copyfile(file, snapshot / file.name)
    assert find_checkpoint(Path(NAME)) == snapshot / "model.safetensors"
    assert Reranker.from_pretrained(NAME, device="cpu").checkpoint.label == "trained on nothing"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_name_means_edjes_own_where_nothing_of_that_name_lies(
    snapshot, tmp_path, name
) -> None:
    folder = Path(edje.__file__).parent / "assets" / name / "reranker"
    assert find_checkpoint(Path(name)) == folder / "model.safetensors"
    Path(name).mkdir()
    with pytest.raises(EdjeError, match=rf"work/{name} exists and .* edje's own {name} is"):
        find_checkpoint(Path(name))
    save_folder(tiny_checkpoint(), Path(name))
    assert find_checkpoint(Path(name)) == Path(name) / "model.safetensors"


def test_a_revision_of_what_is_not_on_the_hub_is_refused(snapshot) -> None:
    save_checkpoint(tiny_checkpoint(), Path("model.ckpt"))
    for name, said in (("photos", "this comes with edje"), ("model.ckpt", "this is a path")):
        with pytest.raises(EdjeError, match=rf"={name}: revision='v1' is of a name .* {said}\."):
            Reranker.from_pretrained(name, revision="v1")


def test_a_revision_is_read_from_its_own_commit_and_an_absent_one_is_named(hub, tmp_path) -> None:
    labels = ("first", "second")
    for label, commit in zip(labels, (COMMIT, "b" * 40), strict=True):
        save_folder(replace(tiny_checkpoint(), label=label), tmp_path / label)
        put_into_cache(hub, NAME, tmp_path / label, commit)

    def label_of(revision: str | None) -> str:
        return Reranker.from_pretrained(NAME, device="cpu", revision=revision).checkpoint.label

    assert [label_of(one) for one in (COMMIT, "b" * 40, None, "main")] == [*labels, *labels[1:] * 2]
    for absent in ("c" * 40, "no-such-branch"):
        with pytest.raises(EdjeError, match=rf"{NAME}: .* can't be read at revision {absent}"):
            label_of(absent)


def test_the_name_of_a_reranker_has_its_revision_and_loads_it_again(hub, tmp_path) -> None:
    for label, commit in (("first", COMMIT), ("second", "b" * 40)):
        save_folder(replace(tiny_checkpoint(), label=label), tmp_path / label)
        put_into_cache(hub, NAME, tmp_path / label, commit)
    first = Reranker.from_pretrained(NAME, device="cpu", revision=COMMIT)
    assert first.name == f"{NAME}@{COMMIT}"
    for again in (
        Reranker.from_pretrained(first.name, device="cpu"),
        Reranker.from_pretrained(first.name, device="cpu", revision=COMMIT),
    ):
        assert (again.name, again.checkpoint.label) == (first.name, "first")
    assert Reranker.from_pretrained(NAME, device="cpu").name == NAME
    with pytest.raises(EdjeError, match="revision='main' is another one than the name has"):
        Reranker.from_pretrained(first.name, revision="main")
    with pytest.raises(EdjeError, match="can't be read at revision refs/pr/7 "):
        Reranker.from_pretrained(f"{NAME}@refs/pr/7")


@pytest.mark.parametrize(
    "path",
    [
        *("reranker", "/somebody/reranker", "../somebody/reranker", "~/reranker", "a/b/c/d"),
        *("runs/model.ckpt", "weights/model.pth", "runs/shapes/2026-01-31_10-00-00", "a b/c"),
    ],
)
def test_what_is_no_hub_name_is_never_asked_for(snapshot, monkeypatch, path) -> None:
    def asked(*arguments, **named):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("edje.inference.location.snapshot_download", asked)
    assert hub_name(path) is None
    with pytest.raises(EdjeError, match="found no checkpoint there"):
        find_checkpoint(Path(path))
