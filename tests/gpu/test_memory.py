"""Claims about the memory of a GPU: what it holds is bounded by a batch, not by the work."""

import pytest
import torch

from edje.inference.scorer import StoredTokenScorer
from tests.gpu.fitting import fit
from tests.gpu.sizes import DEVICE, RawTokens, collection, needs_gpu, reranker

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
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


def test_longer_training_takes_no_more_memory(raw: RawTokens, tmp_path):
    def trained(steps: int) -> int:
        model = reranker()
        return peak_of(lambda: fit(model, raw, tmp_path, steps=steps))

    trained(2)
    assert trained(20) < 1.1 * trained(5)  # captions of other lengths come and go
