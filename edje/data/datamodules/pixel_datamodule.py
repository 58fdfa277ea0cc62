"""The LightningDataModule of pixels and captions, for training a dual encoder from scratch."""

from collections.abc import Iterator
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from edje.data.datamodules.batches import Batch
from edje.data.datamodules.cached_datamodule import ResumableLoader, on_gpu
from edje.errors import EdjeError
from edje.ranges import PositiveInt


@dataclass(frozen=True)
class PixelBatch(Batch):
    """Images with some captions each; captions are padded to the text tower's full length."""

    pixels: UInt8[Tensor, "images 3 side side"]
    word_ids: Int[Tensor, "images captions length"]


@dataclass(frozen=True)
class PixelSet:
    """All images of a split, decoded, and their captions, an equal number for each image."""

    pixels: UInt8[Tensor, "images 3 side side"]
    word_ids: Int[Tensor, "images captions length"]


class _Gathered(Dataset[PixelBatch]):
    """Gathers whole batches: rows and captions chosen by the sampler."""

    def __init__(self, training: PixelSet):
        self.training = training

    def __getitem__(self, chosen: tuple[np.ndarray, np.ndarray]) -> PixelBatch:
        images, captions = map(torch.from_numpy, chosen)
        return PixelBatch(
            self.training.pixels[images], self.training.word_ids[images[:, None], captions]
        )


class _Batches(Sampler[tuple[np.ndarray, np.ndarray]]):
    """Batches in order, each a function of (seed, number): image rows and their captions."""

    def __init__(self, module: "PixelDataModule", first: int, last: int, rank: int, ranks: int):
        self.module = module
        self.numbers = range(first, last)
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.numbers.stop  # of the whole run, which Lightning counts on when it resumes

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        module = self.module
        images, captions = module.training.word_ids.shape[:2]
        size = module.batch_size
        per_epoch = images // size
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for number in self.numbers:
            position = number * self.ranks + self.rank
            if position // per_epoch != epoch:
                epoch = position // per_epoch
                order = np.random.default_rng((module.seed, 1, epoch)).permutation(images)
            start = position % per_epoch * size
            draws = np.random.default_rng((module.seed, 2, position)).random((size, captions))
            chosen = np.argsort(draws, axis=1)[:, : module.captions_per_image]
            yield order[start : start + size], chosen


class PixelDataModule(L.LightningDataModule):
    """Serves batches of images with several captions each; the run is one pass of `max_steps`.

    Args:
        training: the decoded training split.
        seed: seeds order and choice of captions.
        batch_size: images per optimiser micro-step and rank.
        captions_per_image: captions drawn for each image of a batch.

    Raises:
        EdjeError: the split has fewer images, or captions per image, than asked for.
    """

    def __init__(
        self,
        training: PixelSet,
        seed: int,
        *,
        batch_size: PositiveInt = 64,
        captions_per_image: PositiveInt = 3,
    ):
        super().__init__()
        images, captions = training.word_ids.shape[:2]
        if images < batch_size or captions < captions_per_image:
            raise EdjeError(
                f"loader.batch_size={batch_size}, loader.captions_per_image={captions_per_image}: "
                f"the training split has {images} images with {captions} captions each. Lower them."
            )
        self.training = training
        self.seed = seed
        self.batch_size = batch_size
        self.captions_per_image = captions_per_image

    def train_dataloader(self) -> ResumableLoader:
        """The batches that are left of the run."""
        trainer = self.trainer
        assert trainer is not None
        micro = trainer.accumulate_grad_batches
        batches = _Batches(
            self,
            trainer.global_step * micro,
            trainer.max_steps * micro,
            trainer.global_rank,
            trainer.world_size,
        )
        return ResumableLoader(
            _Gathered(self.training),
            sampler=batches,
            batch_size=None,
            pin_memory=on_gpu(trainer),
        )

    def transfer_batch_to_device(
        self, batch: PixelBatch, device: torch.device, dataloader_idx: int
    ) -> PixelBatch:
        """The batch on `device`."""
        return batch.to(device)
