"""Claims about the compiled scorer; on CUDA it replays graphs, which nothing here can run."""

import jaxtyping
import pytest
import torch

from edje.errors import EdjeError
from edje.inference.compiled import static_size
from edje.inference.scorer import StoredTokenScorer
from tests.inference.test_scorer import collection, reranker_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.compilers
def test_compiled_layers_give_the_scores_of_the_others(monkeypatch):
    """One text length, two batches of one static size, the second with pairs that are padding."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # no part of what is compiled
    model, stored = reranker_of(), collection(texts=1, images=35)
    queries, images = torch.zeros(35, dtype=torch.long), torch.arange(35)
    scores = [
        StoredTokenScorer(model, stored, torch.float32, 18, compiled)(
            "t2i", queries, images, torch.zeros(35)
        )
        for compiled in (False, True)
    ]
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-5)
    assert scores[0].std() > 0.01


def test_few_sizes_hold_every_number_of_pairs_with_little_padding():
    sizes = {static_size(pairs) for pairs in range(1, 1025)}
    assert len(sizes) <= 16 + 6 * 8
    assert all(pairs <= static_size(pairs) <= 1.13 * pairs for pairs in range(1, 1025))


@pytest.mark.parametrize(
    ("kind", "precision", "said"),
    [
        ("modernbert", torch.float32, r"compile: is made for BERT and its kin, not for Modern"),
        ("bert", torch.int8, r"compile: on this CPU int8 and bf16 have faster roads"),
    ],
)
def test_what_has_no_compiled_form_says_so(kind, precision, said):
    with pytest.raises(EdjeError, match=said):
        StoredTokenScorer(reranker_of(kind), collection(), precision, compiled=True)
