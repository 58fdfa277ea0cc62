"""Claims about pinned memory, on a GPU that only notes what it is asked for."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from edje.inference import pinned
from edje.inference.pinned import PinnedRing, sent
from edje.inference.scorer import ScoringSet, StoredTokenScorer
from edje.inference.transfer import Transfer
from edje.tokens.cells import CellMemory, TokenCells
from edje.tokens.codec import make_codec
from tests.tiny.scoring import all_pairs, collection, reranker_of

CPU = torch.device("cpu")


class Notes:
    """What a GPU is asked for, in order. Its copies are made at once, into memory of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.notes: list[str] = []
        self.events = 0
        notes = self

        class Event:
            def __init__(self) -> None:
                notes.events += 1
                self.name = f"event {notes.events}"

            def record(self, stream: str) -> None:
                notes.notes.append(f"{self.name} on {stream}")

            def synchronize(self) -> None:
                notes.notes.append(f"wait for {self.name}")

        class Scoring(str):
            def wait_stream(self, other: str) -> None:
                notes.notes.append(f"{self} waits for {other}")

        @contextmanager
        def stream(name: str):
            notes.notes.append(f"on {name}")
            yield

        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "copies")
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Scoring("scoring"))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        monkeypatch.setattr(pinned, "pinned", self.allocate)

    def allocate(self, size: int) -> torch.Tensor:
        self.notes.append(f"pin {size}")
        return torch.empty(size, dtype=torch.uint8)


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    return Notes(monkeypatch)


def test_two_parts_take_turns_and_none_is_filled_before_it_was_copied(notes):
    ring = PinnedRing(CPU)
    for number in range(3):
        assert ring.moved((2,), torch.float32, lambda part, n=number: part.fill_(n)).tolist() == [
            number,
            number,
        ]
        ring.launched()
    assert notes.notes == [
        *("pin 8", "on copies", "event 1 on copies", "scoring waits for copies"),
        "event 2 on scoring",
        *("pin 8", "on copies", "event 3 on copies", "scoring waits for copies"),
        "event 4 on scoring",
        *("wait for event 2", "wait for event 1"),  # scored two ago, and copied from this part
        *("on copies", "event 1 on copies", "scoring waits for copies"),
        "event 5 on scoring",
    ]


def test_memory_is_pinned_anew_only_for_a_larger_batch(notes):
    ring = PinnedRing(CPU)
    for size in (100, 70, 128, 30, 129, 129, 256):
        ring.moved((size,), torch.uint8, lambda part: part.fill_(1))
    assert [note for note in notes.notes if note.startswith("pin")] == [
        *("pin 128", "pin 128"),
        *("pin 256", "pin 256"),
    ]


@pytest.mark.parametrize("name", ["bf16", "fp16", "int8", "int4"])
@pytest.mark.parametrize("batches", [1, 5])
def test_cells_travel_in_their_stored_bytes_and_are_unpacked_there(notes, name, batches):
    codec = make_codec(name, 4, 32)
    cells = torch.from_numpy(codec.encode(torch.randn(9, 4, 32)))
    expected = codec.decode(cells)
    order = torch.tensor([8, 2, 0, 5])
    transfer = Transfer(TokenCells(codec, CellMemory(cells), order), CPU, PinnedRing(CPU))
    assert transfer.is_pinned
    for batch in range(batches):
        rows = torch.tensor([3, batch % 4, 3])
        assert torch.equal(transfer.gather(rows), expected[order][rows])
        transfer.scored()
    size = 3 * codec.cell_bytes
    largest = 1 << (size - 1).bit_length()
    pins = [note for note in notes.notes if note.startswith("pin")]
    assert pins == [f"pin {largest}"] * min(batches, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_in_host_memory_travels_as_it_is(notes, dtype):
    visual = torch.randn(5, 3, 4).to(dtype)
    transfer = Transfer(visual, CPU, PinnedRing(CPU))
    for rows in (torch.tensor([4, 0, 4]), torch.tensor([1]), torch.tensor([2, 3])):
        assert torch.equal(transfer.gather(rows), visual[rows])
        transfer.scored()
    another = transfer.of(visual + 1)
    assert another.ring is transfer.ring
    assert torch.equal(another.gather(torch.tensor([2])), visual[2:3] + 1)


def test_scores_are_the_same_through_pinned_memory_and_every_batch_is_told_of(notes):
    model, stored = reranker_of("bert", 1), collection()
    asked = (*all_pairs("t2i", stored), torch.zeros(108))
    codec = make_codec("bf16", 4, 32)
    cells = torch.from_numpy(codec.encode(stored.visual))
    packed = ScoringSet(stored.text, TokenCells(codec, CellMemory(cells), torch.arange(9)))
    scorer = StoredTokenScorer(model, packed, batch_size=7)
    expected = scorer("t2i", *asked)
    scorer.transfer = Transfer(packed.visual, CPU, PinnedRing(CPU))
    assert torch.equal(scorer.on(packed)("t2i", *asked), expected)
    copied = [note for note in notes.notes if note.endswith("on copies") and "event" in note]
    scored = [note for note in notes.notes if note.endswith("on scoring")]
    assert len(copied) == len(scored) > 10


def test_no_rows_are_moved_too(notes):
    transfer = Transfer(torch.randn(5, 3, 4), CPU, PinnedRing(CPU))
    assert transfer.gather(torch.empty(0, dtype=torch.long)).shape == (0, 3, 4)


def test_what_is_sent_arrives_as_it_is():
    values = torch.arange(3)
    assert sent(values, CPU) is values
    assert sent(values, torch.device("meta")).shape == (3,)
    assert isinstance(sent(values, CPU).numpy(), np.ndarray)
