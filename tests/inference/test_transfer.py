"""Tokens on their way to a device: the same from wherever they come."""

import pytest
import torch

from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.inference.transfer import TokenReader, Transfer
from edje.tokens.store import TokenStore
from tests.inference.test_batch_size import Reader
from tests.inference.test_scorer import all_pairs, collection, reranker_of


def test_a_store_and_any_reader_by_row_are_token_readers():
    assert isinstance(Reader(torch.zeros(2, 3, 4)), TokenReader)
    assert all(hasattr(TokenStore, name) for name in ("num_tokens", "read", "__len__"))


def test_rows_are_gathered_in_their_order_from_a_tensor_or_a_reader():
    visual, rows = torch.randn(5, 3, 4), torch.tensor([4, 0, 4])
    for source in (visual, Reader(visual)):
        transfer = Transfer(source, torch.device("cpu"))
        assert torch.equal(transfer.gather(rows), visual[rows]) and transfer.num_tokens == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_copies_on_a_stream_of_their_own_give_the_scores_of_the_cpu():
    model, stored = reranker_of(), collection(12, 400)
    queries, candidates = all_pairs("t2i", stored)
    first = torch.zeros(len(queries))
    expected = StoredTokenScorer(model, stored, batch_size=64)("t2i", queries, candidates, first)
    scorer = StoredTokenScorer(model.cuda(), ScoringSet(stored.text, stored.visual), batch_size=64)
    assert scorer.transfer.is_pinned
    found = scorer("t2i", queries, candidates, first)  # dozens of batches, two on the way
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
