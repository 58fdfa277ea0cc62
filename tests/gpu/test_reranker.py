"""Claims about a reranker on a device: tensors may come from anywhere, scores are the CPU's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edje.inference.encoded_images import EncodedImages
from edje.inference.reranker import Reranker
from edje.retrieval.fusion import Standardiser, SumFusion
from tests.gpu.sizes import DEVICE, IS_REAL, needs_gpu

pytestmark = pytest.mark.gpu
QUERIES = ("a red square above a blue circle", "a green triangle", "two stars on a grey ground")
SUM = SumFusion(0.5, Standardiser(0.2, 0.1), Standardiser(0.0, 2.0))
# Pictures and texts are encoded in TF32 on a GPU; scores of this size differ by 1.4 among pictures.
NEAR = 5e-2 if IS_REAL else 2e-3
CLOSE: dict[str, Any] = {"rtol": 0, "atol": NEAR}


def opened(device: torch.device | str, score: str) -> Reranker:
    found = Reranker.from_pretrained("shapes", device=device, precision="fp32")
    found.choices = replace(found.choices, score=score)
    weights = {"t2i": SUM, "i2t": SUM}
    found.checkpoint = replace(
        found.checkpoint, fusion={int(found.model.adapter.num_tokens): weights}
    )
    return found


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(6)]


@pytest.mark.parametrize("score", ["joint", "sum"])
def test_pictures_and_texts_are_ranked_as_on_the_cpu(score, pictures):
    there, here = (opened(device, score) for device in (DEVICE, "cpu"))
    assert next(there.model.parameters()).device.type == DEVICE.type
    images, expected = there.encode(pictures, batch_size=4), here.encode(pictures)
    torch.testing.assert_close(images.embeddings, expected.embeddings, rtol=0, atol=2e-3)
    words = there.encode_text(QUERIES)
    torch.testing.assert_close(words, here.encode_text(QUERIES), rtol=0, atol=2e-3)
    pairs = [(QUERIES[0], pictures[0]), (QUERIES[1], pictures[1])]
    np.testing.assert_allclose(there.predict(pairs), here.predict(pairs), **CLOSE)
    found, wanted = (one.rank(QUERIES[0], expected) for one in (there, here))
    by_place = {row["corpus_id"]: row for row in wanted}
    for row in found:
        assert row["score"] == pytest.approx(by_place[row["corpus_id"]]["score"], abs=2e-3)
        assert row.get("probability", -1.0) == pytest.approx(
            by_place[row["corpus_id"]].get("probability", -1.0), abs=2e-3
        )
    assert ("probability" in found[0]) == (score == "joint")  # calibrated for this score


@pytest.mark.parametrize("score", ["joint", "sum"])
@pytest.mark.parametrize("place", ["cpu", DEVICE.type])
def test_encoded_images_first_scores_and_rows_may_be_anywhere(score, place, pictures):
    there = opened(DEVICE, score)
    host = there.encode(pictures)
    images = EncodedImages(host.embeddings.to(place), host.tokens.to(place))
    first = torch.linspace(0, 1, len(images))
    for known in (None, first):
        expected = there.score_images(QUERIES[0], host, known)
        given = known if known is None else known.to(place)
        found = there.score_images(QUERIES[0], images, given)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    rows = [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([5, 4, 3])]
    expected_rows = there.score_several(QUERIES, host, rows)
    found_rows = there.score_several(QUERIES, images, [some.to(place) for some in rows])
    for some, expected in zip(found_rows, expected_rows, strict=True):
        torch.testing.assert_close(some, expected, rtol=0, atol=1e-5)
    logits = there.score([QUERIES[0]] * len(images), images.tokens, first.to(place))
    assert logits.device.type == "cpu" and len(logits) == len(images)
    probability = there.probability(first.to(place), len(images))
    if score == "joint":
        torch.testing.assert_close(probability.cpu(), there.probability(first, len(images)))
    else:
        assert probability is None


@pytest.mark.parametrize("place", ["cpu", DEVICE.type])
@pytest.mark.parametrize("place_of_rows", ["cpu", DEVICE.type])
def test_rows_of_any_device_pick_images_of_any_device(place, place_of_rows):
    drawn = torch.randn(4, 3), torch.randn(4, 2, 5)
    images = EncodedImages(*(part.to(place) for part in drawn))
    for rows in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        picked = images[rows.to(place_of_rows)]
        assert picked.tokens.device.type == place and torch.equal(
            picked.tokens.cpu(), drawn[1][rows]
        )
    assert torch.equal(images[torch.tensor(2).to(place_of_rows)].embedding.cpu(), drawn[0][2])


def test_images_rows_and_first_scores_of_both_devices_are_ranked_together(pictures):
    there = opened(DEVICE, "sum")
    host = there.encode(pictures)
    moved = EncodedImages(host.embeddings.to(DEVICE), host.tokens.to(DEVICE))
    mixed = [moved[0], host[1], moved[2]]
    expected = there.rank(QUERIES[0], [host[0], host[1], host[2]])
    found = there.rank(QUERIES[0], mixed)
    assert [row["corpus_id"] for row in found] == [row["corpus_id"] for row in expected]
    rows = [torch.tensor([0, 2]), torch.tensor([1, 2, 3])]
    first = [torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4, 0.5])]
    wanted = there.score_several(QUERIES[:2], host, rows, first)
    given = there.score_several(
        QUERIES[:2], host, [rows[0].to(DEVICE), rows[1]], [first[0], first[1].to(DEVICE)]
    )
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_model_that_is_moved_takes_its_tower_along(pictures):
    moved = opened("cpu", "joint")
    expected, words = moved.encode(pictures), moved.encode_text(QUERIES)
    moved.model.to(DEVICE)
    for _ in range(2):
        torch.testing.assert_close(moved.encode(pictures).tokens, expected.tokens, **CLOSE)
        torch.testing.assert_close(moved.encode_text(QUERIES), words, rtol=0, atol=2e-3)
        moved.model.to("cpu")


@needs_gpu
def test_a_reranker_that_leaves_the_gpu_leaves_nothing_there(pictures):
    moved = opened(DEVICE, "joint")
    expected = moved.score_images(QUERIES[0], moved.encode(pictures))
    assert moved.to("cpu").to("cpu") is moved
    assert moved._built.scorers == {}
    assert {weight.device.type for weight in moved._built.backbone.parameters()} == {"cpu"}
    torch.testing.assert_close(
        moved.score_images(QUERIES[0], moved.encode(pictures)), expected, **CLOSE
    )
    assert [device.type for device in moved._built.scorers] == ["cpu"]


@pytest.mark.parametrize("place", ["cpu", DEVICE.type])
def test_tokens_from_anywhere_are_compressed_and_come_back_to_where_they_were(place):
    there, here = (opened(device, "joint") for device in (DEVICE, "cpu"))
    facts = there.checkpoint.facts
    tokens: Tensor = torch.randn(3, facts.num_tokens, facts.token_width)
    found, maps = there.compress(tokens.to(place)), there.attention_maps(tokens.to(place))
    assert found.device.type == maps.device.type == place
    torch.testing.assert_close(found.cpu(), here.compress(tokens), rtol=0, atol=1e-4)
    torch.testing.assert_close(maps.cpu(), here.attention_maps(tokens), rtol=0, atol=1e-5)
