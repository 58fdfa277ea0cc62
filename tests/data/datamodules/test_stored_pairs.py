"""Claims about batches that are gathered as stored bytes and unpacked where they are used."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from edje.data.datamodules.cached_datamodule import CachedLoading, CachedTokenDataModule
from edje.data.datamodules.stored_pairs import PairDataset, StoredPairs, TrainingSet
from edje.language_model import tokenize
from edje.records import PairBatch
from edje.tokens.store import TokenStore
from tests.tiny.stores import IDS, make_store
from tests.tiny.words import tiny_captions, tiny_tokenizer

IMAGES, BATCH = 12, 4


def training_set(folder: Path, codec: str = "int8", taught: str | None = "fp8") -> TrainingSet:
    """Two captions per image; images and the teacher's lie in other orders than the stores."""
    assert len(IDS) >= IMAGES
    store = TokenStore.open(make_store(folder / codec, codec=codec))
    teacher = None if taught is None else TokenStore.open(make_store(folder / "t", codec=taught))
    return TrainingSet(
        store=store,
        store_rows=torch.arange(IMAGES).flip(0),
        text=tokenize(tiny_tokenizer(), tiny_captions(2 * IMAGES)),
        image_of_caption=torch.arange(2 * IMAGES) // 2,
        caption_keys=torch.arange(2 * IMAGES),
        image_embeddings=torch.randn(IMAGES, 3),
        text_embeddings=torch.randn(2 * IMAGES, 3),
        teacher=teacher,
        teacher_rows=None if teacher is None else torch.arange(IMAGES).roll(1),
    )


def tensors(record: Any) -> dict[str, Tensor]:
    """Of a record and of those in it."""
    found: dict[str, Tensor] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if is_dataclass(value):
            found |= {f"{field.name}.{name}": one for name, one in tensors(value).items()}
        elif value is not None:
            found[field.name] = value
    return found


def datamodule(training: TrainingSet, device: str = "cpu", ranks: int = 1, **choices: Any) -> Any:
    """With a trainer that is on this device."""
    data = CachedTokenDataModule(training, None, 5, CachedLoading(batch_size=BATCH, **choices))
    data.trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        accumulate_grad_batches=1, max_steps=9, global_step=0, global_rank=0,
        world_size=ranks, num_devices=ranks,
    )  # fmt: skip
    return data


@pytest.mark.parametrize("codec", ["fp16", "bf16", "fp8", "int8", "int4"])
def test_a_batch_holds_bitwise_what_reading_its_rows_as_tokens_gives(codec, tmp_path):
    training = training_set(tmp_path, codec)
    rows = [7, 0, 7, 23]
    stored = PairDataset(training).__getitems__(rows)
    assert stored.cells.dtype == torch.uint8
    batch = datamodule(training).transfer_batch_to_device(stored, torch.device("cpu"), 0)
    images, longest = torch.tensor(rows) // 2, int(training.text.attention_mask[rows].sum(1).max())
    assert training.teacher is not None and training.teacher_rows is not None
    expected = PairBatch(
        sample_ids=torch.tensor(rows),
        image_ids=images,
        caption_keys=torch.tensor(rows),
        tokens=training.store.read(training.store_rows[images]),
        text=type(training.text)(
            training.text.input_ids[rows, :longest], training.text.attention_mask[rows, :longest]
        ),
        image_embeddings=training.image_embeddings[images],
        text_embeddings=training.text_embeddings[rows],
        teacher_tokens=training.teacher.read(training.teacher_rows[images]),
    )
    found, right = tensors(batch), tensors(expected)
    assert found.keys() == right.keys()
    for name, tensor in right.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.filterwarnings("ignore:.*This process .* is multi-threaded, use of fork.*")
def test_two_workers_give_the_batches_of_none(tmp_path):
    training = training_set(tmp_path)
    alone, together = (
        [*datamodule(training, num_workers=workers).train_dataloader()] for workers in (0, 2)
    )
    assert len(alone) == len(together) == 9
    for one, other in zip(alone, together, strict=True):
        found = tensors(other)
        assert all(torch.equal(tensor, found[name]) for name, tensor in tensors(one).items())


def test_a_loader_pins_every_tensor_of_a_batch_for_a_gpu(tmp_path, monkeypatch):
    training, pinned = training_set(tmp_path), []
    stored = PairDataset(training).__getitems__([1, 2])
    monkeypatch.setattr(Tensor, "pin_memory", lambda own: pinned.append(own) or own.clone())
    again = pin_memory(stored)
    assert isinstance(again, StoredPairs)
    given, found = tensors(stored), tensors(again)
    assert {id(one) for one in pinned} == {id(one) for one in given.values()}
    assert all(torch.equal(given[name], one) for name, one in found.items())
    for device, pins in (("cuda", True), ("cpu", False)):
        loader = datamodule(training, device, num_workers=0).train_dataloader()
        assert loader.pin_memory is pins


def test_stored_bytes_go_to_a_gpu_and_nothing_waits_for_them(tmp_path, monkeypatch):
    training, moves = training_set(tmp_path, taught=None), []
    stored = PairDataset(training).__getitems__([1, 2, 3])

    def to(own: Tensor, *where: Any, non_blocking: bool = False) -> Tensor:
        moves.append((own, where, non_blocking))
        return own

    monkeypatch.setattr(Tensor, "to", to)
    stored.to(torch.device("cuda", 1))
    assert len(moves) == len(tensors(stored))
    assert all(where == (torch.device("cuda", 1),) and free for _, where, free in moves)
    (cells,) = (own for own, *_ in moves if own.dtype == torch.uint8)
    assert cells.nbytes == 3 * training.store.codec.cell_bytes
    moves.clear()
    stored.to(torch.device("mps"))
    assert not any(free for *_, free in moves)  # only CUDA knows pinned memory


def test_a_batch_without_stored_tokens_of_a_teacher_has_none(tmp_path):
    training = training_set(tmp_path, taught=None)
    batch = training.unpacked(PairDataset(training).__getitems__([1, 2]))
    assert batch.teacher_tokens is None


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # this machine has fewer cores
def test_by_default_a_gpu_is_fed_by_workers_and_a_cpu_is_not(tmp_path, monkeypatch):
    training = training_set(tmp_path)
    monkeypatch.setattr("edje.data.datamodules.workers.cores", lambda: 6)
    monkeypatch.setattr("edje.data.datamodules.workers.room", lambda: 1 << 30)
    for device, ranks, asked, workers in [
        ("cpu", 1, None, 0), ("cuda", 1, None, 4), ("cuda", 2, None, 3), ("cuda", 8, None, 0),
        ("cpu", 1, 2, 2), ("cuda", 1, 0, 0),
    ]:  # fmt: skip
        loader = datamodule(training, device, ranks, num_workers=asked).train_dataloader()
        assert loader.num_workers == workers, (device, ranks, asked)
    assert training.teacher is not None
    cells = training.store.codec.cell_bytes + training.teacher.codec.cell_bytes
    monkeypatch.setattr("edje.data.datamodules.workers.room", lambda: 5 * BATCH * cells)
    assert datamodule(training, "cuda").train_dataloader().num_workers == 2
    assert datamodule(training, "cuda", ranks=2).train_dataloader().num_workers == 0
