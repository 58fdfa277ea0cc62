"""The LightningDataModule over cached tokens, and the batches' order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from edje.data.datamodules.stored_pairs import PairDataset, StoredPairs, TrainingSet
from edje.data.datamodules.workers import begin, number_of, share_of_cores, start_method
from edje.errors import EdjeError
from edje.ranges import NonNegativeInt, PositiveInt
from edje.records import PairBatch

_MOST_WORKERS = 4  # they copy cells, and wait for the disk


class NeighbourhoodSampler(Sampler[list[int]]):
    """The batches of a run in order, each a function of (seed, batch number) alone.

    An epoch visits every caption once. With `neighbours = g`, a batch consists of anchors in that
    order, each followed by captions of g images drawn from its mined list of similar images. So
    the hardest negatives of the whole training set meet in one batch. Ranks take turns.

    Args:
        image_of_caption: row of each caption's image.
        mined: rows of similar images for each image, or None for plain random batches.
        batch_size: pairs per batch.
        neighbours: mined images that accompany each anchor.
        num_batches: batches of this rank from the run's start to its end.
        first_batch: batches of this rank that an earlier part of the run has seen.
    """

    def __init__(
        self,
        image_of_caption: Int[Tensor, "captions"],
        mined: Int[Tensor, "images similar"] | None,
        batch_size: int,
        neighbours: int,
        num_batches: int,
        first_batch: int,
        seed: int,
        rank: int,
        num_ranks: int,
    ):
        self.image_of_caption = image_of_caption.numpy()
        self.mined = None if mined is None else mined.numpy()
        self.batch_size = batch_size
        self.anchors = batch_size // (neighbours + 1)
        self.neighbours = neighbours
        self.num_batches = num_batches
        self.first_batch = first_batch
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        order = np.argsort(self.image_of_caption, kind="stable")
        bounds = np.cumsum(np.bincount(self.image_of_caption))[:-1]
        self.captions_of_image = np.split(order, bounds)

    @property
    def batches_per_epoch(self) -> int:
        """Batches over all ranks in which every caption is an anchor once; a rest is dropped."""
        return max(len(self.image_of_caption) // self.anchors, 1)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch, permutation = -1, np.empty(0, dtype=np.int64)
        for number in range(self.first_batch, self.num_batches):
            position = number * self.num_ranks + self.rank
            if position // self.batches_per_epoch != epoch:
                epoch = position // self.batches_per_epoch
                permutation = np.random.default_rng((self.seed, 1, epoch)).permutation(
                    len(self.image_of_caption)
                )
            start = position % self.batches_per_epoch * self.anchors
            yield self._batch(permutation[start : start + self.anchors], position)

    def _batch(self, anchors: np.ndarray, position: int) -> list[int]:
        if self.mined is None or not self.neighbours:
            return anchors.tolist()
        draws = np.random.default_rng((self.seed, 2, position))
        chosen: list[int] = []
        for anchor in anchors.tolist():
            chosen.append(anchor)
            similar = self.mined[self.image_of_caption[anchor]]
            for image in draws.choice(similar, self.neighbours, replace=False):
                chosen.append(int(draws.choice(self.captions_of_image[image])))
        return chosen


class ResumableLoader(DataLoader):
    """A loader whose place in the run is its sampler's first batch, read from the trainer."""

    def state_dict(self) -> dict[str, int]:
        """Empty: the trainer's own count of batches says where to continue."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True, kw_only=True)
class CachedLoading:
    """How pair batches are made from a token store.

    Args:
        batch_size: pairs per optimiser micro-step and rank.
        num_workers: processes of each rank that read the store; 0 reads in the training process.
            null means none on a CPU, whose cores the training needs. On an accelerator it means
            up to 4, limited by the cores and by the shared memory for their batches.
        neighbours: mined similar images put beside each anchor of a batch.
        mined_pool: number of most similar images from which they are drawn.
        mined_margin: leaves out likely false negatives: images that a caption is closer to than
            to its own by more than this margin, in units of the miner's score (cosines of the
            first stage, logits of a reranker), and images with an equal caption. null leaves
            out none.
    """

    batch_size: PositiveInt = 64
    num_workers: NonNegativeInt | None = None
    neighbours: NonNegativeInt = 0
    mined_pool: PositiveInt = 10
    mined_margin: float | None = None


class CachedTokenDataModule(L.LightningDataModule):
    """Gives pair batches from a token store for training.

    The whole run is one pass of Lightning's loop, `trainer.max_steps` long; the sampler counts
    the epochs over the data.

    Args:
        training: the pairs.
        mined: similar images of each image (needed if there are neighbours to draw).
        seed: seeds the order.
        loading: how the batches are made.

    Raises:
        EdjeError: batch, neighbours and training set don't fit each other.
    """

    def __init__(
        self,
        training: TrainingSet,
        mined: Int[Tensor, "images similar"] | None,
        seed: int,
        loading: CachedLoading,
    ):
        super().__init__()
        batch_size, neighbours = loading.batch_size, loading.neighbours
        if batch_size % (neighbours + 1):
            raise EdjeError(
                f"loader.batch_size={batch_size} is not a multiple of loader.neighbours + 1 = "
                f"{neighbours + 1}. Choose a multiple, so that every anchor keeps its neighbours."
            )
        if neighbours and (mined is None or mined.shape[1] < neighbours):
            raise EdjeError(
                f"loader.neighbours={neighbours}: they are drawn from "
                f"{0 if mined is None else mined.shape[1]} similar images. Raise "
                "loader.mined_pool (or train on more images)."
            )
        captions = len(training.image_of_caption)
        if captions < batch_size:
            raise EdjeError(
                f"loader.batch_size={batch_size}: the training set has {captions} captions. "
                "Lower loader.batch_size."
            )
        self.training = training
        self.mined = mined
        self.seed = seed
        self.loading = loading
        self.batch_size = batch_size

    def train_dataloader(self) -> ResumableLoader:
        """The run's remaining batches."""
        trainer = self.trainer
        assert trainer is not None
        accumulate = trainer.accumulate_grad_batches
        sampler = NeighbourhoodSampler(
            self.training.image_of_caption,
            self.mined,
            self.batch_size,
            self.loading.neighbours,
            trainer.max_steps * accumulate,
            trainer.global_step * accumulate,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        workers = self._workers(trainer)
        return ResumableLoader(
            PairDataset(self.training),
            batch_sampler=sampler,
            num_workers=workers,
            pin_memory=on_gpu(trainer),
            multiprocessing_context=start_method(workers),
            collate_fn=_as_is,  # type: ignore[arg-type]  # the dataset gives whole batches
            worker_init_fn=begin,
        )

    def _workers(self, trainer: L.Trainer) -> int:
        """The requested number of workers, or as many as this machine can have.

        Raises:
            EdjeError: shared memory is too small for the requested ones.
        """
        training, ranks = self.training, trainer.num_devices  # of this machine
        stores = [training.store, *([] if training.teacher is None else [training.teacher])]
        batch_bytes = self.batch_size * sum(store.codec.cell_bytes for store in stores)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        suited = 0 if on_cpu else share_of_cores(ranks, _MOST_WORKERS)
        return number_of("loader.num_workers", self.loading.num_workers, suited, ranks, batch_bytes)

    def transfer_batch_to_device(
        self, batch: StoredPairs, device: torch.device, dataloader_idx: int
    ) -> PairBatch:
        """The batch on `device`, unpacked there (Lightning doesn't move frozen dataclasses)."""
        return self.training.unpacked(batch.to(device))


def caption_keys(texts: Sequence[str]) -> Int[Tensor, "captions"]:
    """A number per caption, the same for equal texts."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def on_gpu(trainer: L.Trainer) -> bool:
    """Whether batches go to a GPU, which reads pinned memory by itself."""
    return trainer.strategy.root_device.type == "cuda"


def _as_is(batch: StoredPairs) -> StoredPairs:
    return batch
