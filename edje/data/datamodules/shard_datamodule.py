"""The LightningDataModule of a store being written: what is to be encoded, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import lightning as L
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edje.data.datamodules.batches import Batch
from edje.data.datamodules.cached_datamodule import on_gpu
from edje.data.datamodules.workers import begin, start_method
from edje.images.decoder import open_image


@dataclass(frozen=True)
class ShardBatch(Batch):
    """Consecutive rows of a store and the inputs of their tokens, such as pixels."""

    rows: range
    inputs: Shaped[Tensor, "rows *rest"]


class PixelRows(Dataset[ShardBatch]):
    """Decodes the image files of rows: a batch of pixels as a vision tower expects them."""

    def __init__(
        self,
        paths: Sequence[str],
        preprocess: Callable[[Image.Image], Float[Tensor, "3 height width"]],
    ):
        self.paths = paths
        self.preprocess = preprocess

    def __getitem__(self, rows: range) -> ShardBatch:
        images = (open_image(self.paths[row]) for row in rows)
        return ShardBatch(rows, torch.stack([self.preprocess(image) for image in images]))


class _Rows(Sampler[range]):
    """Requests the batches anew in each pass, as their number isn't known in advance."""

    def __init__(self, batches: Callable[[], Iterator[range]]):
        self.batches = batches

    def __iter__(self) -> Iterator[range]:
        return self.batches()


class ShardDataModule(L.LightningDataModule):
    """Gives the batches of the shards that this process has claimed.

    Args:
        dataset: maps rows of the store to a batch.
        batches: the rows of each batch in turn; requested some batches ahead.
        num_workers: processes that load; 0 loads in this one.
    """

    def __init__(
        self,
        dataset: Dataset[ShardBatch],
        batches: Callable[[], Iterator[range]],
        num_workers: int,
    ):
        super().__init__()
        self.dataset = dataset
        self.batches = batches
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader[ShardBatch]:
        """One pass over the rest of the store."""
        trainer = self.trainer
        assert trainer is not None
        return DataLoader(
            self.dataset,
            sampler=_Rows(self.batches),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=on_gpu(trainer),
            multiprocessing_context=start_method(self.num_workers),
            worker_init_fn=begin,
        )

    def transfer_batch_to_device(
        self, batch: ShardBatch, device: torch.device, dataloader_idx: int
    ) -> ShardBatch:
        """The batch with its tensor on `device`."""
        return batch.to(device)
