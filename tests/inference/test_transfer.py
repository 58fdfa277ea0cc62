"""Tokens on their way to a device: the same from wherever they come."""

import torch

from edje.inference.transfer import TokenReader, Transfer
from edje.tokens.store import TokenStore
from tests.inference.test_batch_size import Reader


def test_a_store_and_any_reader_by_row_are_token_readers():
    assert isinstance(Reader(torch.zeros(2, 3, 4)), TokenReader)
    assert all(hasattr(TokenStore, name) for name in ("num_tokens", "read", "__len__"))


def test_rows_are_gathered_in_their_order_from_a_tensor_or_a_reader():
    visual, rows = torch.randn(5, 3, 4), torch.tensor([4, 0, 4])
    for source in (visual, Reader(visual)):
        transfer = Transfer(source, torch.device("cpu"))
        assert torch.equal(transfer.gather(rows), visual[rows]) and transfer.num_tokens == 3
