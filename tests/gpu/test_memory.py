"""Claims about the memory of a GPU: what it holds is bounded by a batch, not by the work."""

import pytest
import torch

from edje.inference import device_cells
from edje.inference.scorer import StoredTokenScorer
from edje.pipeline.shares import ScoringWork, score
from edje.records import CandidateList
from tests.gpu.fitting import fit
from tests.gpu.sizes import (
    DEVICE,
    VISUAL,
    WIDTH,
    RawTokens,
    collection,
    needs_real_gpu,
    packed,
    reranker,
)

pytestmark = [
    pytest.mark.gpu,
    needs_real_gpu,
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def peak_of(call) -> int:
    """Bytes that a call allocates beyond what is there, at its peak."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_ten_times_the_pairs_from_host_memory_take_no_more_memory():
    scorer = StoredTokenScorer(
        reranker().to(DEVICE).eval(), collection(4, 64), torch.bfloat16, batch_size=64
    )

    def scored(pairs: int) -> int:
        rows = torch.arange(pairs)
        asked = (rows % 4, rows % 64, torch.zeros(pairs))
        return peak_of(lambda: scorer("t2i", *asked))

    scored(1000)  # the libraries' own memory
    assert scored(10_000) < 1.1 * scored(1000)


def test_ten_times_the_images_of_a_store_take_no_more_memory_where_they_are_not_kept(
    tmp_path, monkeypatch
):
    """Kept on the GPU, they take their stored bytes."""
    model = reranker().to(DEVICE).eval()

    def scored(images: int, share: float) -> int:
        monkeypatch.setattr(device_cells, "SHARE_OF_DEVICE", share)
        folder = tmp_path / str(images)
        candidates = torch.linspace(0, images - 1, 64).long().repeat(4, 1)
        lists = CandidateList(
            "t2i", candidates, torch.zeros(4, 64), torch.zeros(4, 64) > 0, torch.ones(4).long()
        )
        work = ScoringWork(model, packed(4, images, folder), torch.bfloat16, 64, [lists])
        return peak_of(lambda: score(work, lambda _: None))

    scored(64, 0.0)  # the libraries' own memory
    few, many = scored(64, 0.0), scored(640, 0.0)
    assert many < 1.1 * few
    cells = 576 * VISUAL * WIDTH * 2  # of the images that are more
    assert 0.9 * cells < scored(640, 0.25) - scored(64, 0.25) < 1.2 * cells


def test_longer_training_takes_no_more_memory(raw: RawTokens, tmp_path):
    def trained(steps: int) -> int:
        model = reranker()
        return peak_of(lambda: fit(model, raw, tmp_path, steps=steps))

    trained(2)
    assert trained(20) < 1.1 * trained(5)  # captions of other lengths come and go
