"""Batch sizes from memory and a calibration, and what a scorer makes of them."""

import os

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edje.inference import batch_size
from edje.inference.batch_size import LARGEST, BatchSize, calibrated, free_bytes, sizes_within
from edje.inference.cls_encoder import cls_encoder
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from tests.tiny.scoring import Reader, all_pairs, collection, reranker_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "wanted", "expected"),
    [
        (10**9, 10_000, [2048, 4096, 8192]),  # no more than there are rows
        (10**9, 5, [2048]),
        (4 * 5000 * 1000, 10_000, [2048, 4096]),  # a quarter of the memory holds 5,000 rows
        (1, 10_000, [2048]),
        (10**12, 10**6, [2048, 4096, 8192, LARGEST["cpu"]]),
    ],
)
def test_sizes_are_what_memory_holds_and_pairs_need(free, wanted, expected, monkeypatch):
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
    assert sizes_within(CPU, 1000, wanted) == expected


def test_the_free_memory_is_asked_of_the_system():
    assert 2**20 < free_bytes(CPU) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_files_in_the_cache_of_linux_count_as_free_memory(tmp_path, monkeypatch):
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 9999 kB\nMemFree:  12 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(batch_size, "Path", lambda path: facts)
    assert free_bytes(CPU) == 2 * 2**20
    facts.unlink()  # on another system
    assert free_bytes(CPU) > 2 * 2**20


def test_what_torch_holds_of_a_gpu_without_using_it_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 78 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8 << 30)
    assert free_bytes(torch.device("cuda", 0)) == 71 << 30


@pytest.mark.parametrize(
    ("seconds_per_row", "expected"),
    [
        ({16: 2.0, 32: 1.0, 64: 3.0}, 32),
        ({16: 1.0, 32: 0.99, 64: 0.98}, 16),  # about as fast: the smallest
        ({16: 1.0, 32: 0.9, 64: 0.5}, 64),
    ],
)
def test_the_calibration_takes_the_least_time_per_row(seconds_per_row, expected):
    now, runs = 0.0, []

    def run(size: int) -> None:
        nonlocal now
        disturbed = size not in runs or 5 <= len(runs) <= 8  # the first of each, and for a while
        now += size * seconds_per_row[size] + (100 if disturbed else 0)
        runs.append(size)

    assert calibrated(run, [16, 32, 64], CPU, clock=lambda: now) == expected
    assert calibrated(None, [2048, 4096, 8192], CPU) == 4096


def test_a_scorer_calibrates_when_more_pairs_come_than_before_and_obeys_a_given_size(monkeypatch):
    tried = []

    def choose(run, sizes, device):
        run(2)  # one layer, in the encoder's number format
        tried.append(sizes)
        return sizes[-1]

    monkeypatch.setattr(batch_size, "SMALLEST", 200)
    monkeypatch.setattr(batch_size, "calibrated", choose)
    stored = collection(4, 100)
    text = type(stored.text)(stored.text.input_ids[:1], stored.text.attention_mask[:1])
    one = ScoringSet(text, stored.visual)
    sequence = int(text.attention_mask.sum()) + stored.visual.shape[1] + 1
    assert 200 <= 25 * sequence < 400 <= 45 * sequence < 800 <= 100 * sequence < 1600
    fast = StoredTokenScorer(reranker_of(), one, torch.bfloat16)
    for pairs, rows in ((25, 200), (45, 400), (30, 400), (100, 800), (50, 800)):
        zeros = torch.zeros(pairs, dtype=torch.long)
        fast("t2i", zeros, torch.arange(pairs), torch.zeros(pairs))
        assert fast.batch_size.chosen == rows // sequence
    another = fast.on(one)
    another("t2i", torch.zeros(100, dtype=torch.long), torch.arange(100), torch.zeros(100))
    assert tried == [[200, 400], [200, 400, 800]]  # none for another collection
    given = StoredTokenScorer(reranker_of(), one, batch_size=9)
    given("t2i", torch.zeros(100, dtype=torch.long), torch.arange(100), torch.zeros(100))
    assert given.batch_size.chosen == 9 and len(tried) == 2


def test_longer_pairs_go_in_smaller_batches_of_about_one_size():
    stored = collection(1, 30)
    assert BatchSize(None, cls_encoder(reranker_of().joint, torch.float32), CPU).of(1, 1000) == 2
    reader = Reader(stored.visual)
    fast = StoredTokenScorer(reranker_of(), ScoringSet(stored.text, reader), batch_size=12)
    fast("t2i", torch.zeros(25, dtype=torch.long), torch.arange(25), torch.zeros(25))
    assert reader.rows == [9, 9, 7]


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.bytes = max(self.bytes, leaf.numel() * leaf.element_size())
        return result


def test_memory_is_bounded_by_the_batch_and_work_is_linear_in_pairs():
    model, stored = reranker_of(), collection(1, 400)
    largest = {}
    for k in (50, 400):
        reader = Reader(stored.visual)
        fast = StoredTokenScorer(model, ScoringSet(stored.text, reader), batch_size=10)
        with LargestTensor() as seen:
            zeros = torch.zeros(k, dtype=torch.long)
            fast("t2i", zeros, torch.arange(k), torch.zeros(k))
        largest[k] = seen.bytes
        assert reader.rows == [10] * (k // 10)  # every candidate is read once, ten at a time
    assert largest[50] == largest[400] > 10 * 32


def test_tokens_that_are_read_by_row_give_the_scores_of_tokens_in_memory():
    model, stored = reranker_of(), collection()
    queries, candidates = all_pairs("t2i", stored)
    first = torch.zeros(len(queries))
    expected = StoredTokenScorer(model, stored)("t2i", queries, candidates, first)
    from_reader = ScoringSet(stored.text, Reader(stored.visual))
    found = StoredTokenScorer(model, from_reader)("t2i", queries, candidates, first)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_memory_of_a_pair_grows_with_its_length():
    encoder = cls_encoder(reranker_of().joint, torch.float32)
    assert 0 < encoder.bytes_per_pair(10) < encoder.bytes_per_pair(20)
