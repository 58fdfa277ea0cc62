"""Claims about both stages of an evaluation on a device."""

import pytest
import torch

from edje.inference import device_cells
from edje.inference.scorer import ScoringSet
from edje.pipeline.shares import ScoringWork, score, scored_in_shares
from edje.records import CandidateList
from edje.retrieval.candidates import candidate_lists
from edje.retrieval.report import retrieval_metrics
from edje.retrieval.rerank import rerank
from tests.gpu.sizes import DEVICE, IS_REAL, collection, embeddings, not_pretended, packed, reranker

pytestmark = pytest.mark.gpu
IMAGES, K = (200, 10) if IS_REAL else (6, 3)


def lists_on(device: torch.device | str) -> CandidateList:
    """Of two captions per image."""
    images, owner = embeddings(IMAGES), torch.arange(2 * IMAGES, device=device) // 2
    captions = embeddings(2 * IMAGES).flip(0)
    return candidate_lists(images.to(device), captions.to(device), owner, "t2i", K)


def test_a_device_lists_the_candidates_of_the_cpu_and_a_ranking_of_them_is_evaluated():
    """Products are summed up in another order, so neighbours in a list may change places."""
    found, expected = lists_on(DEVICE), lists_on("cpu")
    torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-5)
    assert (found.candidates.cpu() == expected.candidates).float().mean() > 0.99
    kept = rerank(found, lambda direction, queries, candidates, first: 2 * first.cpu(), 1000)
    owner = torch.arange(2 * IMAGES, device=DEVICE) // 2
    gain = retrieval_metrics({"t2i": kept}, {"t2i": owner})["t2i"]["gain"]
    assert {figure["value"] for figure in gain.values()} == {0.0}  # twice as high, in one order


@pytest.mark.parametrize("share", [0.25, 0.0])
@pytest.mark.parametrize("place", ["memory", "store"])
def test_scores_are_those_of_tokens_in_memory_wherever_the_cells_are_kept(
    place, share, tmp_path, monkeypatch
):
    """On a GPU where they fit in a share of its memory, else moved batch by batch."""
    monkeypatch.setattr(device_cells, "SHARE_OF_DEVICE", share)
    model = reranker().to(DEVICE).eval()
    stored = packed(2 * IMAGES, IMAGES, tmp_path / "store" if place == "store" else None)
    floats = ScoringSet(stored.text, stored.visual.read(torch.arange(IMAGES)))
    (found,), (expected,) = (
        score(ScoringWork(model, one, torch.float32, 64, [lists_on("cpu")]), lambda _: None)[0]
        for one in (stored, floats)
    )
    torch.testing.assert_close(found.joint, expected.joint, rtol=0, atol=1e-5)


@pytest.mark.clusters
@not_pretended
def test_two_processes_on_one_device_give_the_scores_of_one():
    model, stored = reranker().to(DEVICE).eval(), collection(2 * IMAGES, IMAGES)
    precision = torch.bfloat16 if IS_REAL else torch.float32
    work = ScoringWork(model, stored, precision, 64, [lists_on("cpu")])
    (alone,), _ = score(work, lambda _: None)
    (shared,), seconds = scored_in_shares(work, [torch.device(DEVICE.type, 0)] * 2, lambda _: None)
    # In bf16 a pair's last bits depend on how many are scored with it.
    tolerance = 0.1 * float(alone.joint.std()) if IS_REAL else 1e-5
    torch.testing.assert_close(shared.joint, alone.joint, rtol=0, atol=tolerance)
    assert seconds > 0
