"""The LightningDataModule over cached tokens, and the batches' order."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edje.errors import EdjeError
from edje.ranges import NonNegativeInt, PositiveInt
from edje.records import PairBatch, TextBatch


class TokenReader(Protocol):
    """Where vision tokens come from: a token store, or anything that reads like one."""

    def read(
        self, rows: Int[Tensor, "rows"], *, dtype: torch.dtype = ..., device: str = ...
    ) -> Float[Tensor, "rows tokens width"]:
        """Tokens of the given rows."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """Everything a pair batch is gathered from, by caption row and image row."""

    store: TokenReader
    store_rows: Int[Tensor, "images"]  # the images' rows in the store
    text: TextBatch
    image_of_caption: Int[Tensor, "captions"]
    caption_keys: Int[Tensor, "captions"]
    image_embeddings: Float[Tensor, "images embedding"]
    text_embeddings: Float[Tensor, "captions embedding"]
    teacher: TokenReader | None = None  # a teacher's visual tokens, where they are stored
    teacher_rows: Int[Tensor, "images"] | None = None


class PairDataset(Dataset[PairBatch]):
    """Gathers whole batches: the loader asks for a list of caption rows and gets a PairBatch."""

    def __init__(self, training: TrainingSet):
        self.training = training

    def __len__(self) -> int:
        return len(self.training.image_of_caption)

    def __getitems__(self, captions: list[int]) -> PairBatch:
        """The batch of the given caption rows, text cut to its longest."""
        rows = torch.tensor(captions)
        data = self.training
        images = data.image_of_caption[rows]
        mask = data.text.attention_mask[rows]
        longest = int(mask.sum(dim=1).max())
        given = None
        if data.teacher is not None and data.teacher_rows is not None:
            given = data.teacher.read(data.teacher_rows[images])
        return PairBatch(
            sample_ids=rows,
            image_ids=images,
            caption_keys=data.caption_keys[rows],
            tokens=data.store.read(data.store_rows[images]),
            text=TextBatch(data.text.input_ids[rows, :longest], mask[:, :longest]),
            image_embeddings=data.image_embeddings[images],
            text_embeddings=data.text_embeddings[rows],
            teacher_tokens=given,
        )


class NeighbourhoodSampler(Sampler[list[int]]):
    """The batches of a run in order, each a function of (seed, batch number) alone.

    An epoch visits every caption once. With `neighbours = g`, a batch is made of anchors in that
    order, each followed by captions of g images drawn from its mined list of similar images: so
    the hardest negatives of the whole training set meet inside a batch. Ranks take turns.

    Args:
        image_of_caption: row of each caption's image.
        mined: rows of similar images of each image, or None for plain random batches.
        batch_size: pairs per batch.
        neighbours: mined images that accompany each anchor.
        num_batches: batches of this rank from the run's start to its end.
        first_batch: batches of this rank that an earlier part of the run has already seen.
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
        """Batches over all ranks in which every caption is an anchor once (the rest is left)."""
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
        """Nothing to keep: the trainer's own count of batches says where to go on."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


class CachedTokenDataModule(L.LightningDataModule):
    """Serves pair batches from a token store for training.

    The whole run is one pass of Lightning's loop, `trainer.max_steps` long; epochs over the data
    are counted by the sampler.

    Args:
        training: the pairs.
        mined: similar images of each image (needed where `neighbours` > 0).
        seed: seeds the order.
        batch_size: pairs per optimiser micro-step and rank.
        num_workers: processes that read the store; 0 reads in the training process.
        neighbours: mined similar images put beside each anchor of a batch.
        mined_pool: how many of the most similar images they are drawn from.
        mined_margin: leaves out, as likely false negatives, images that a caption is closer to
            than to its own by more than this, in units of the miner's score (cosines of the first
            stage, logits of a reranker), and images with an equal caption; null leaves out none.
    """

    def __init__(
        self,
        training: TrainingSet,
        mined: Int[Tensor, "images similar"] | None,
        seed: int,
        *,
        batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt = 0,
        neighbours: NonNegativeInt = 0,
        mined_pool: PositiveInt = 10,
        mined_margin: float | None = None,
    ):
        super().__init__()
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
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.neighbours = neighbours
        self.mined_pool = mined_pool
        self.mined_margin = mined_margin

    def train_dataloader(self) -> ResumableLoader:
        """The batches that are left of the run."""
        trainer = self.trainer
        assert trainer is not None
        accumulate = trainer.accumulate_grad_batches
        sampler = NeighbourhoodSampler(
            self.training.image_of_caption,
            self.mined,
            self.batch_size,
            self.neighbours,
            trainer.max_steps * accumulate,
            trainer.global_step * accumulate,
            self.seed,
            trainer.global_rank,
            trainer.world_size,
        )
        return ResumableLoader(
            PairDataset(self.training),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_is,  # type: ignore[arg-type]  # the dataset gives whole batches
            worker_init_fn=leave_signals_to_main,
            persistent_workers=False,
        )

    def transfer_batch_to_device(
        self, batch: PairBatch, device: torch.device, dataloader_idx: int
    ) -> PairBatch:
        """The batch with every tensor on `device` (Lightning doesn't move frozen dataclasses)."""
        given = batch.teacher_tokens
        return PairBatch(
            sample_ids=batch.sample_ids.to(device),
            image_ids=batch.image_ids.to(device),
            caption_keys=batch.caption_keys.to(device),
            tokens=batch.tokens.to(device),
            text=TextBatch(batch.text.input_ids.to(device), batch.text.attention_mask.to(device)),
            image_embeddings=batch.image_embeddings.to(device),
            text_embeddings=batch.text_embeddings.to(device),
            teacher_tokens=None if given is None else given.to(device),
        )


def caption_keys(texts: Sequence[str]) -> Int[Tensor, "captions"]:
    """A number per caption, equal for equal texts."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def _as_is(batch: PairBatch) -> PairBatch:
    return batch


def leave_signals_to_main(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group: only the main process stops.

    A worker ends when the main process tells it to, or is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """At the main process's exit, end the workers that an error has left behind.

    multiprocessing ends them by SIGTERM, which they leave to the main process, and would wait for
    them forever.
    """
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would call their end an error
    for process in left:
        process.kill()
