"""Pairs of a training set, gathered from a token store as bytes and unpacked on the device."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from edje.data.datamodules.batches import Batch
from edje.records import PairBatch, TextBatch
from edje.tokens.cells import CellReader


@dataclass(frozen=True)
class StoredPairs(Batch):
    """Matching pairs, one per row like a `PairBatch`, with tokens in their stored form."""

    sample_ids: Int[Tensor, "batch"]
    image_ids: Int[Tensor, "batch"]
    caption_keys: Int[Tensor, "batch"]
    cells: UInt8[Tensor, "batch bytes"]
    text: TextBatch
    image_embeddings: Float[Tensor, "batch embedding"]
    text_embeddings: Float[Tensor, "batch embedding"]
    teacher_cells: UInt8[Tensor, "batch bytes"] | None


@dataclass(frozen=True)
class TrainingSet:
    """All sources of a pair batch, by caption row and image row."""

    store: CellReader
    store_rows: Int[Tensor, "images"]  # the images' rows in the store
    text: TextBatch
    image_of_caption: Int[Tensor, "captions"]
    caption_keys: Int[Tensor, "captions"]
    image_embeddings: Float[Tensor, "images embedding"]
    text_embeddings: Float[Tensor, "captions embedding"]
    teacher: CellReader | None = None  # a teacher's visual tokens, if they are stored
    teacher_rows: Int[Tensor, "images"] | None = None

    def unpacked(self, pairs: StoredPairs) -> PairBatch:
        """The batch with its tokens in float32, unpacked on the device of its cells."""
        given, device = pairs.teacher_cells, pairs.cells.device
        if self.teacher is None or given is None:
            taught = None
        else:
            taught = self.teacher.codec.decode(given, device=device)
        return PairBatch(
            sample_ids=pairs.sample_ids,
            image_ids=pairs.image_ids,
            caption_keys=pairs.caption_keys,
            tokens=self.store.codec.decode(pairs.cells, device=device),
            text=pairs.text,
            image_embeddings=pairs.image_embeddings,
            text_embeddings=pairs.text_embeddings,
            teacher_tokens=taught,
        )


class PairDataset(Dataset[StoredPairs]):
    """Gathers whole batches: the loader requests a list of caption rows and gets all of them."""

    def __init__(self, training: TrainingSet):
        self.training = training

    def __len__(self) -> int:
        return len(self.training.image_of_caption)

    def __getitems__(self, captions: list[int]) -> StoredPairs:
        """The batch of the given caption rows, texts cut to the longest of them."""
        rows = torch.tensor(captions)
        data = self.training
        images = data.image_of_caption[rows]
        mask = data.text.attention_mask[rows]
        longest = int(mask.sum(dim=1).max())
        given = None
        if data.teacher is not None and data.teacher_rows is not None:
            given = _cells(data.teacher, data.teacher_rows[images])
        return StoredPairs(
            sample_ids=rows,
            image_ids=images,
            caption_keys=data.caption_keys[rows],
            cells=_cells(data.store, data.store_rows[images]),
            text=TextBatch(data.text.input_ids[rows, :longest], mask[:, :longest]),
            image_embeddings=data.image_embeddings[images],
            text_embeddings=data.text_embeddings[rows],
            teacher_cells=given,
        )


def _cells(store: CellReader, rows: Int64[Tensor, "rows"]) -> UInt8[Tensor, "rows bytes"]:
    return torch.from_numpy(store.read_cells(rows.numpy()))
