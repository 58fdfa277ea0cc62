"""Tokens on their way to a device: the same from wherever they come."""

import torch

from edje.inference import device_cells
from edje.inference.device_cells import CellsOnDevice, near
from edje.inference.transfer import TokenReader, Transfer
from edje.tokens.cells import CellMemory, CellReader, TokenCells
from edje.tokens.codec import make_codec
from edje.tokens.store import TokenStore
from tests.tiny.scoring import Reader


def test_a_store_and_any_reader_by_row_are_token_readers():
    assert isinstance(Reader(torch.zeros(2, 3, 4)), TokenReader)
    assert all(hasattr(TokenStore, name) for name in ("num_tokens", "read", "__len__"))


def test_rows_are_gathered_in_their_order_from_a_tensor_or_a_reader():
    visual, rows = torch.randn(5, 3, 4), torch.tensor([4, 0, 4])
    for source in (visual, Reader(visual)):
        transfer = Transfer(source, torch.device("cpu"))
        assert torch.equal(transfer.gather(rows), visual[rows]) and transfer.num_tokens == 3


def test_what_gives_cells_is_told_from_what_gives_tokens_only():
    codec = make_codec("bf16", 3, 4)
    cells = torch.from_numpy(codec.encode(torch.zeros(2, 3, 4)))
    assert isinstance(TokenCells(codec, CellMemory(cells), torch.arange(2)), CellReader)
    assert all(hasattr(TokenStore, name) for name in ("codec", "read_cells"))
    assert not isinstance(Reader(torch.zeros(2, 3, 4)), CellReader)
    assert not isinstance(CellsOnDevice(codec, cells), CellReader)  # they are there already


def test_cells_copied_to_a_device_give_the_tokens_of_the_host_and_stay_there():
    codec, order = make_codec("int8", 3, 4), torch.tensor([4, 0, 2, 3])
    cells = torch.from_numpy(codec.encode(torch.randn(5, 3, 4)))
    visual = TokenCells(codec, CellMemory(cells), order)
    there = CellsOnDevice.copied(visual, torch.device("cpu"))
    assert (len(there), there.num_tokens) == (4, 3)
    rows = torch.tensor([3, 0, 3])
    expected = codec.decode(cells)[order][rows]
    assert torch.equal(there.read(rows, dtype=torch.float32, device="cpu"), expected)
    assert torch.equal(Transfer(there, torch.device("cpu")).gather(rows), expected)


def test_on_a_cpu_nothing_is_copied_and_a_gpu_takes_what_fits_a_quarter_of_it(monkeypatch):
    codec, cuda = make_codec("bf16", 3, 4), torch.device("cuda")
    cells = torch.zeros(5, codec.cell_bytes, dtype=torch.uint8)
    visual = TokenCells(codec, CellMemory(cells), torch.arange(5))
    there = CellsOnDevice(codec, cells)
    monkeypatch.setattr(CellsOnDevice, "copied", lambda *given: there)
    for free, fits in ((4 * cells.numel(), True), (4 * cells.numel() - 1, False)):
        monkeypatch.setattr(device_cells, "free_bytes", lambda device, free=free: free)
        assert near(visual, cuda) is (there if fits else visual)
        assert near(visual, torch.device("cpu")) is visual
    tokens = torch.zeros(5, 3, 4)
    assert near(tokens, cuda) is tokens
