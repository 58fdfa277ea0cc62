"""Claims about cells by row, wherever they lie."""

import pickle

import numpy as np
import pytest
import torch

from edje.tokens.cells import CellFile, CellMemory, CellReader, TokenCells
from edje.tokens.codec import make_codec
from edje.tokens.store import TokenStore
from tests.tiny.stores import make_store

ROWS = np.array([49, 0, 7, 7, 30])


@pytest.fixture(params=["memory", "file", "store"])
def source(request, tmp_path):
    """Cells of 50 images, of 48 bytes."""
    store = TokenStore.open(make_store(tmp_path / "store"))
    cells = store.read_cells(np.arange(50))
    if request.param == "memory":
        return CellMemory(torch.from_numpy(cells)), cells
    (tmp_path / "cells").write_bytes(cells.tobytes())
    return (store if request.param == "store" else CellFile(tmp_path / "cells", 48)), cells


@pytest.mark.parametrize("threads", [1, 2])
def test_cells_are_copied_in_the_order_of_rows_also_to_given_memory(source, threads):
    source, cells = source
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(3):  # the first read of rows, and later ones
            assert np.array_equal(source.read_cells(ROWS), cells[ROWS])
            out = np.zeros((5, 48), np.uint8)
            assert np.shares_memory(source.read_cells(ROWS, out), out)
            assert np.array_equal(out, cells[ROWS])
    finally:
        torch.set_num_threads(before)


def test_another_process_reads_the_same_cells(source):
    source, cells = source
    source.read_cells(ROWS)
    assert np.array_equal(pickle.loads(pickle.dumps(source)).read_cells(ROWS), cells[ROWS])


@pytest.mark.parametrize("row", [50, 1000])
def test_a_row_that_is_not_there_is_an_error(source, row):
    with pytest.raises(IndexError):
        source[0].read_cells(np.array([0, row]))


def test_tokens_are_those_of_the_rows_that_were_chosen(source):
    source, cells = source
    codec = make_codec("fp16", 4, 6)
    expected = codec.decode(torch.from_numpy(cells))
    chosen = torch.tensor([3, 49, 0])
    visual = TokenCells(codec, source, chosen)
    assert isinstance(visual, CellReader) and (len(visual), visual.num_tokens) == (3, 4)
    rows = torch.tensor([2, 1, 2])
    assert torch.equal(visual.read(rows), expected[[0, 49, 0]])
    assert torch.equal(visual.permuted(torch.tensor([1, 2, 0])).read(rows), expected[[3, 0, 3]])
    with pytest.raises(IndexError):
        visual.read(torch.tensor([3]))
