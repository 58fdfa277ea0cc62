"""Claims about calibrations: on what they are fitted, where they lie, what an evaluation says."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from edje.cli import run
from edje.inference.checkpoint import load_checkpoint
from edje.inference.run_choices import calibrations_for
from edje.pipeline import sampled_searches
from edje.pipeline.sampled_searches import (
    QUERIES,
    candidates_in,
    drawn_galleries,
    gallery_sizes,
    joined,
    with_and_without,
)
from edje.pipeline.shares import ScoringWork, score
from edje.records import CandidateList
from tests.tiny.scoring import collection, reranker_of
from tests.tiny.world import make_images, make_world, with_changes

IMAGES, CAPTIONS = 520, 3  # of each image
OWNER = torch.arange(IMAGES).repeat_interleave(CAPTIONS)


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 8, generator=generator)
    captions = images[OWNER] + 0.5 * torch.randn(len(OWNER), 8, generator=generator)
    return normalize(images, dim=1), normalize(captions, dim=1)


def test_galleries_grow_in_equal_ratios_from_the_smallest_to_all_images():
    assert gallery_sizes(1000) == [50, 136, 368, 1000]  # each 2.71 times the one before
    assert (gallery_sizes(51), gallery_sizes(50), gallery_sizes(49)) == ([50, 51], [50], [])


@pytest.mark.parametrize(("size", "count"), [(50, 8), (120, 4), (200, 2), (520, 1)])
def test_galleries_of_a_size_share_no_image_and_no_two_queries_are_of_one(size, count):
    galleries = list(drawn_galleries(OWNER, size, torch.Generator().manual_seed(0)))
    images = torch.cat([one.images for one in galleries])
    asked = torch.cat([one.asked for one in galleries])
    assert [len(one.images) for one in galleries] == [size] * count
    assert len(images.unique()) == size * count and len(asked.unique()) == len(asked) == QUERIES
    for one in galleries:
        assert torch.isin(one.asked, one.images).all()
        assert torch.equal(OWNER[one.captions], one.asked)
    picked = torch.cat([one.captions for one in galleries])
    assert len((picked % CAPTIONS).unique()) == CAPTIONS  # not always the first caption


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_a_query_sees_the_best_of_its_gallery_with_what_it_seeks_and_without(direction):
    images, captions = embeddings()
    (gallery, *_) = drawn_galleries(OWNER, 120, torch.Generator().manual_seed(0))
    sample = candidates_in(gallery, images, captions, OWNER, direction, 20)
    similarity = captions @ images.T if direction == "t2i" else images @ captions.T
    final = similarity[sample.queries[:, None], sample.first.candidates]
    searches = with_and_without(sample, final, 20)
    there = (
        gallery.images if direction == "t2i" else torch.isin(OWNER, gallery.images).nonzero()[:, 0]
    )
    assert searches.scores.shape == (2 * len(sample.queries), 20)
    assert set(searches.gallery_sizes.tolist()) == {len(there)}
    theirs = there if direction == "t2i" else OWNER[there]
    for place, query in enumerate(sample.queries.tolist()):
        own = OWNER[query] if direction == "t2i" else query
        inside, outside = similarity[query, there], similarity[query, there[theirs != own]]
        expected = torch.stack([inside.topk(20).values, outside.topk(20).values]).double()
        both = searches.scores[[place, place + len(sample.queries)]]
        torch.testing.assert_close(both.sort(dim=1, descending=True).values, expected)
    assert searches.right[: len(sample.queries)].any(dim=1).double().mean() > 0.9
    assert not searches.right[len(sample.queries) :].any()


def test_lists_of_small_galleries_are_joined_with_longer_ones():
    images, captions = embeddings()
    generator = torch.Generator().manual_seed(0)
    samples = [
        candidates_in(
            next(drawn_galleries(OWNER, size, generator)), images, captions, OWNER, "t2i", 70
        )
        for size in (50, 120)
    ]
    whole = joined(samples)
    searches = with_and_without(whole, whole.first.scores, 70)
    listed = (searches.scores > -torch.inf).sum(dim=1)
    few, many = len(samples[0].queries), len(samples[1].queries)
    assert listed.tolist() == [50] * few + [70] * many + [49] * few + [70] * many
    assert searches.right.sum(dim=1).max() == 1  # what fills a list is no second hit


def test_queries_may_come_in_any_order_and_more_than_once():
    stored, model = collection(texts=12, images=9), reranker_of()
    rows = torch.tensor([7, 2, 7, 11])
    lists = CandidateList(
        "t2i", torch.arange(5).repeat(12, 1), torch.rand(12, 5), torch.rand(12, 5) > 0.5,
        torch.ones(12).long(),
    )  # fmt: skip
    some = CandidateList(
        "t2i",
        *(
            getattr(lists, name)[rows]
            for name in ("candidates", "scores", "relevant", "num_relevant")
        ),
    )
    (every,), _ = score(ScoringWork(model, stored, torch.float32, 16, [lists]), lambda _: None)
    work = ScoringWork(model, stored, torch.float32, 16, [some], queries=[rows])
    (found,), _ = score(work, lambda _: None)
    torch.testing.assert_close(found.joint, every.joint[rows], rtol=0, atol=1e-6)
    (share,), _ = score(work, lambda _: None, (1, 2))
    torch.testing.assert_close(share.joint, every.joint[rows[1::2]], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> list[str]:
    """A world large enough to calibrate in, of an adapter with budgets, whose score is the sum."""
    root = tmp_path_factory.mktemp("world")
    overrides = [line for line in make_world(root) if not line.startswith("adapter.")]
    return with_changes(
        overrides,
        f"data.root={make_images(root / 'more', 240)}",
        "data.dev_images=70",
        "adapter=compression_nested",
        "adapter.num_tokens=4",
        "adapter.hidden_width=32",
        "adapter.budgets=[2,4]",
        "score=sum",
        "scoring.examples=0",
    )


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> list[Path]:
    """Two run folders of the same command."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    for folder in folders:
        run(with_changes(world, f"hydra.run.dir={folder}"))
    return folders


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_training_ends_with_calibrations_that_its_seed_decides(trained):
    first, second = (load_checkpoint(folder).calibration for folder in trained)
    assert first == second and set(first) == {2, 4}
    for of_count in first.values():
        assert set(of_count) == {"t2i", "i2t"}
        for one, captions in ((of_count["t2i"], 1), (of_count["i2t"], 2)):
            assert (one.smallest_gallery, one.largest_gallery) == (50 * captions, 70 * captions)
            assert one.score == "sum" and one.num_searches == 2 * (50 + 56 + 63 + 70)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_evaluation_says_how_honest_they_are(trained):
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    for direction, captions in (("t2i", 1), ("i2t", 2)):
        found = metrics["calibration"][direction]
        assert [row[0] for row in found["galleries"]] == [
            50 * captions,
            58 * captions,
            68 * captions,
            80 * captions,
        ]
        assert found["fitted_on"] == [50 * captions, 70 * captions]
        searches = sum(number for *_, number in found["bins"])
        assert searches == sum(number for *_, number in found["galleries"])
        gaps = [number * abs(said - right) for said, right, number in found["bins"]]
        assert found["ece"] == pytest.approx(sum(gaps) / searches, abs=2e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_of_a_vast_split_a_part_is_searched(trained, world, tmp_path, monkeypatch):
    monkeypatch.setattr(sampled_searches, "LARGEST", 60)
    (cache,) = (line for line in world if line.startswith("cache_dir="))
    asked = [f"checkpoint={trained[0]}", cache, f"hydra.run.dir={tmp_path}"]
    run(["task=evaluate", *asked])
    found = json.loads((tmp_path / "metrics.json").read_text())["calibration"]
    assert [row[0] for row in found["t2i"]["galleries"]] == [50, 53, 56, 60]
    assert [row[0] for row in found["i2t"]["galleries"]] == [100, 106, 112, 120]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_of_another_score_than_the_fitted_one_nothing_is_said(trained, world, tmp_path):
    checkpoint = load_checkpoint(trained[0])
    assert set(calibrations_for(checkpoint, "sum")) == {"t2i", "i2t"}
    assert calibrations_for(checkpoint, "joint") == {}
    (cache,) = (line for line in world if line.startswith("cache_dir="))
    asked = [f"checkpoint={trained[0]}", "score=joint", cache, f"hydra.run.dir={tmp_path}"]
    run(["task=evaluate", *asked])
    assert "calibration" not in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_with_few_dev_images_there_is_none_and_the_log_says_so(world, tmp_path):
    few = ["data.dev_images=49", "score=joint", "task=train", "trainer.max_steps=1"]
    run(with_changes(world, *few, f"hydra.run.dir={tmp_path}"))
    assert load_checkpoint(tmp_path).calibration == {}
    log = (tmp_path / "logs" / "run.log").read_text()
    assert "no calibration: dev has 49 images, but needs 50" in log
