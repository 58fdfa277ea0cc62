"""What a run makes of captions and of its first stage: where, how often, and of how much."""

import resource
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edje.errors import EdjeError
from edje.models.edje import EDJE
from edje.pipeline import caption_features, first_stage
from edje.pipeline import collection as collections
from edje.pipeline import first_stage_statistics as fixed
from edje.pipeline.collection import Collection, collection_of
from edje.pipeline.first_stage import align, embeddings, reason_to_fit
from edje.pipeline.first_stage_statistics import evenly, fix_statistics
from edje.pipeline.kept import kept
from edje.pipeline.token_cache import Cache
from edje.records import DIRECTIONS, CaptionRecord, ImageRecord, RetrievalSplit
from edje.retrieval.candidates import candidate_lists
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import writer_lock
from edje.tokens.store import TokenStore
from tests.tiny.bright_tower import BrightTower
from tests.tiny.rerankers import FACTS, tiny_checkpoint, tiny_reranker
from tests.tiny.stores import locked_elsewhere, make_store

CPU = torch.device("cpu")
TEXTS = [f"{'a' * (row % 7)} {row}" for row in range(100)]  # two of each image


class Words(nn.Module):
    """A backbone that makes features of captions' lengths, and notes where it does so."""

    text_width, embedding_width = 3, 3

    def __init__(self) -> None:
        super().__init__()
        self.at, self.worked_at = "cpu", []

    def to(self, device: torch.device) -> "Words":  # type: ignore[override]
        self.at = str(device)
        return self

    def text_identity(self) -> dict[str, str]:
        return {"text_encoder": "Words"}

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.worked_at.append(self.at)
        return torch.tensor([[len(text), 1.0, sum(map(ord, text))] for text in texts])

    def project_images(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1)

    project_texts = project_images


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore.open(make_store(tmp_path_factory.mktemp("store") / "raw"))


def collected(
    store: TokenStore, folder: Path, backbone: Words, device: torch.device = CPU
) -> Collection:
    captions = [
        CaptionRecord(f"{row:03d}", store.image_ids[row // 2], text)
        for row, text in enumerate(TEXTS)
    ]
    images = [ImageRecord(name, name) for name in store.image_ids]
    split = RetrievalSplit("tiny", "train", tuple(images), tuple(captions))
    place = Cache(folder, devices=(device,))
    source: Any = SimpleNamespace(name="tiny", bad_images="error")
    return collection_of(place, source, split, backbone, store)  # type: ignore[arg-type]


def test_captions_are_read_on_the_run_s_device_once(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_features, "TEXT_BATCH", 30)
    backbone = Words()
    found = collected(store, tmp_path, backbone, torch.device("meta"))
    assert backbone.worked_at == ["meta"] * 4
    assert backbone.at == "cpu"  # where the caching of stores expects it
    assert torch.equal(found.text_features, Words().encode_texts(list(found.texts)))
    collected(store, tmp_path, backbone, torch.device("meta"))
    assert len(backbone.worked_at) == 4


class Fitted(Words):
    """The same with projections, which say how often they were fitted."""

    def __init__(self, **facts: str) -> None:
        super().__init__()
        self.facts, self.fits, self.state = facts, 0, {}

    def text_identity(self) -> dict[str, str]:
        return super().text_identity() | self.facts

    def recipe(self) -> dict[str, str | int | float]:
        return {}

    def fit(self, *_: Tensor, seed: int) -> dict[str, float]:
        self.fits += 1
        return {}

    def first_stage_state(self) -> dict[str, Tensor]:
        return {"fitted": torch.ones(1)}

    def load_first_stage_state(self, state: dict[str, Tensor]) -> None:
        self.state = state


def test_projections_fitted_before_a_fact_was_recorded_are_not_fitted_again(
    store: TokenStore, tmp_path: Path
) -> None:
    place = Cache(tmp_path, devices=(CPU,))

    def fits(**facts: str) -> int:
        backbone: Any = Fitted(**facts)
        align(backbone, collected(store, tmp_path, backbone), place, seed=0)
        return backbone.fits

    assert fits() == 1
    assert fits(tokenizer="abc") == 0
    for fitted in tmp_path.rglob("aligned-*"):
        fitted.unlink()
    assert [fits(tokenizer="abc"), fits(tokenizer="def"), fits(tokenizer="abc")] == [1, 1, 0]


def test_a_part_of_a_collection_has_its_own_rows(store: TokenStore, tmp_path: Path) -> None:
    whole = collected(store, tmp_path, Words())
    some = [3, 17, 40]
    captions = [row for row, image in enumerate(whole.image_of_caption.tolist()) if image in some]
    part = whole.restricted(
        RetrievalSplit(
            "tiny",
            "dev",
            tuple(whole.split.images[row] for row in some),
            tuple(whole.split.captions[row] for row in captions),
        )
    )
    assert torch.equal(part.image_features, whole.image_features[some])
    assert torch.equal(part.text_features, whole.text_features[captions])
    assert part.image_of_caption.tolist() == [0, 0, 1, 1, 2, 2]
    assert part.text_table is whole.text_table


def test_embeddings_are_the_same_whatever_the_chunks(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Words()
    found = collected(store, tmp_path, backbone)
    expected = (
        backbone.project_images(found.image_features),
        backbone.project_texts(found.text_features),
    )
    for rows in (1, 7, 1000):
        for module in (first_stage, collections):
            monkeypatch.setattr(module, "rows_at_once", lambda width, rows=rows: rows)
        for one, other in zip(embeddings(backbone, found), expected, strict=True):  # type: ignore[arg-type]
            assert torch.equal(one, other)


def drawn(images: int = 30, captions: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    sides = (torch.randn(n, 8, generator=draws) for n in (images, captions))
    one, other = (F.normalize(side, dim=1) for side in sides)
    return one, other, torch.arange(captions) % images


def test_recall_of_the_first_stage_is_the_share_of_queries_in_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, captions, owner = drawn(60, 120)
    captions = F.normalize(captions + 0.5 * images[owner], dim=1)
    monkeypatch.setattr(first_stage, "embeddings", lambda *given: (images, captions))
    chosen: Any = SimpleNamespace(image_of_caption=owner)
    found = first_stage.first_stage_recall(Words(), chosen, CPU)  # type: ignore[arg-type]
    relevant = owner[:, None] == torch.arange(60)
    for direction, own in (("t2i", relevant), ("i2t", relevant.T)):
        scores = captions @ images.T if direction == "t2i" else images @ captions.T
        best = scores.where(own, -torch.inf).amax(dim=1, keepdim=True)
        ahead = ((scores >= best) & ~own).sum(dim=1)
        assert found[direction] == {
            f"recall@{k}": round((ahead < k).double().mean().item() * 100, 2)
            for k in (1, 5, 10, 20, 50)
        }
        assert 0 < found[direction]["recall@1"] < found[direction]["recall@20"] < 100


def statistics(model: EDJE) -> list[float]:
    return [*model.first_stage_mean.tolist(), *model.first_stage_deviation.tolist()]


def test_statistics_are_fixed_for_a_residual_model_alone(tmp_path: Path) -> None:
    joint, residual = tiny_reranker(), tiny_reranker(residual=True)
    fix_statistics(joint, *drawn(), tmp_path / "cache", CPU)
    assert not joint.has_first_stage_statistics and not (tmp_path / "cache").exists()
    fix_statistics(residual, *drawn(), tmp_path / "cache", CPU)
    scores = [candidate_lists(*drawn(), direction, 100).scores for direction in DIRECTIONS]
    assert statistics(residual) == [  # all training queries where they are few, to the last bit
        *(one.mean().item() for one in scores),
        *(one.std().item() for one in scores),
    ]


def test_statistics_are_taken_once_and_anew_for_another_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_reranker(residual=True)
    images, captions, owner = drawn()
    fix_statistics(model, images, captions, owner, tmp_path, CPU)
    before = statistics(model)
    with monkeypatch.context() as patched:
        patched.setattr(fixed, "candidate_lists", None)
        again = tiny_reranker(residual=True)
        fix_statistics(again, images, captions, owner, tmp_path, CPU)
        assert statistics(again) == before
    for changed in (
        (images.flip(0), captions, owner),
        (images, captions, owner.flip(0)),
        (images, captions * 2, owner),
    ):
        fix_statistics(model, *changed, tmp_path, CPU)
    assert len(list(tmp_path.glob("statistics-*.safetensors"))) == 4
    assert statistics(model) != before


def test_statistics_of_many_queries_are_those_of_some_spread_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evenly(10, 20_000).tolist() == list(range(10))
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert len(evenly(566_747, 20_000).unique()) == 20_000
    assert evenly(0, 5).tolist() == []
    monkeypatch.setattr(fixed, "STATISTICS_QUERIES", 40)
    model = tiny_reranker(residual=True)
    fix_statistics(model, *drawn(), tmp_path, CPU)
    some = candidate_lists(*drawn(), "t2i", 100).scores[torch.arange(40) * 90 // 40]
    every = candidate_lists(*drawn(), "i2t", 100).scores
    assert statistics(model)[:2] == [some.mean().item(), every.mean().item()]


@pytest.mark.parametrize("left", [0, 7, 70])
def test_a_damaged_file_of_what_is_kept_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    path = tmp_path / "file.safetensors"
    kept(path, lambda: {"found": torch.arange(9)})
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert kept(path, lambda: {"found": torch.arange(9)})["found"].tolist() == list(range(9))
    assert path.read_bytes() == whole
    assert f"{path} is damaged: it is computed again" in caplog.text


def test_a_disk_too_full_for_what_is_kept_is_named(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(EdjeError, match=r"can't write to .*Free some space"):
            kept(tmp_path / "file.safetensors", lambda: {"found": torch.arange(9999)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == []


def test_what_is_kept_is_computed_by_one_and_the_others_wait(tmp_path: Path) -> None:
    path, calls = tmp_path / "some" / "file.safetensors", []

    def compute() -> dict[str, Tensor]:
        calls.append(1)
        return {"found": torch.arange(3)}

    assert kept(path, compute)["found"].tolist() == [0, 1, 2]
    assert load_file(path)["found"].tolist() == [0, 1, 2]
    with writer_lock(path.parent):  # what is there is read without it
        assert kept(path, compute)["found"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    other = tmp_path / "elsewhere" / "file.safetensors"
    other.parent.mkdir()
    with locked_elsewhere(other.parent) as process:
        waiting = threading.Thread(target=kept, args=(other, compute))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and len(calls) == 1
        process.communicate()
        waiting.join(20)
    assert len(calls) == 2 and other.is_file()


REASONS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"first_stage": {}}, "it has none"),
    ({"facts": replace(FACTS, embedding_width=9)}, "its embeddings have width 9, this run's 12"),
    ({"backbone": {"name": "other"}}, "for another image encoder, which differs in name"),
    ({"text_backbone": {"name": "other"}}, "for another caption encoder, which differs in name"),
    ({"text_backbone": {}}, "can't be compared with this run's (the checkpoint doesn't say how"),
]


@pytest.mark.parametrize(("changes", "reason"), REASONS)
def test_projections_serve_the_encoders_that_they_are_for(
    changes: dict[str, Any], reason: str
) -> None:
    state = {"a": torch.ones(1)}
    fields: dict[str, Any] = {"text_backbone": {"name": "tiny"}, "first_stage": state}
    found = reason_to_fit(replace(tiny_checkpoint(), **(fields | changes)), BrightTower())
    assert reason in found and bool(found) is bool(reason)


def test_an_older_reranker_s_caption_encoder_is_built_to_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = replace(tiny_checkpoint(), first_stage={"a": torch.ones(1)})
    monkeypatch.setattr(first_stage, "backbone_of", lambda _: BrightTower())
    assert reason_to_fit(older, BrightTower()) == ""
    monkeypatch.setattr(BrightTower, "text_identity", lambda self: {"words": id(self)})
    assert "another caption encoder, which differs in words" in reason_to_fit(older, BrightTower())


class Aligned(Words):
    """Notes the features on which it is fitted."""

    def identity(self) -> dict[str, str]:
        return {"tower": "Aligned"}

    recipe = identity

    def fit(self, image_features: Tensor, *_: Tensor, seed: int) -> dict[str, float]:
        self.state = {"image": image_features.mean(0)}
        return {}

    def first_stage_state(self) -> dict[str, Tensor]:
        return self.state

    def load_first_stage_state(self, state: dict[str, Tensor]) -> None:
        self.state = state


def test_projections_are_fitted_again_on_other_images_under_the_same_names(tmp_path: Path) -> None:
    cache = SimpleNamespace(split_folder=lambda *_: tmp_path)
    for value, files in ((0.0, 1), (1.0, 2), (0.0, 2)):
        train = SimpleNamespace(
            split=SimpleNamespace(dataset="pictures", captions=[]),
            texts=(),
            store=SimpleNamespace(
                manifest=SimpleNamespace(fingerprint=Fingerprint({"images": value}))
            ),
            image_features=torch.full((4, 3), value),
            text_features=torch.ones(4, 3),
            image_of_caption=torch.arange(4),
        )
        align(backbone := Aligned(), train, cache, seed=0)
        assert torch.equal(backbone.state["image"], torch.full((3,), value))
        assert len([*tmp_path.glob("aligned-*.safetensors")]) == files
