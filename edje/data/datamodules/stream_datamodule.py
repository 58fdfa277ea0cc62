"""The LightningDataModule over pairs that are encoded on the fly, for sets too large to cache."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import lightning as L
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from edje.data.datamodules.cached_datamodule import ResumableLoader, on_gpu
from edje.data.datamodules.workers import begin, number_of, share_of_cores, start_method
from edje.data.mixture.order import MixtureOrder
from edje.data.mixture.pretrain import Mixture
from edje.data.mixture.streamed_pairs import DecodedPairs, Preprocess, StreamedPairs, StreamSampler
from edje.data.sources.source import BadImages
from edje.errors import EdjeError
from edje.ranges import NonNegativeInt, PositiveInt
from edje.records import PairBatch, TextBatch
from edje.retrieval.exact import products_in

log = logging.getLogger(__name__)
_MOST_WORKERS = 4


@dataclass(frozen=True)
class EncodedPairs:
    """The frozen backbone's output for a batch, and its captions as the joint encoder reads them.

    Embeddings are L2-normalised.
    """

    tokens: Float[Tensor, "batch tokens width"]
    text: TextBatch
    image_embeddings: Float[Tensor, "batch embedding"]
    text_embeddings: Float[Tensor, "batch embedding"]


class PairEncoder(Protocol):
    """The frozen backbone, as batches need it."""

    def __call__(
        self, pixels: Float[Tensor, "batch 3 height width"], texts: list[str]
    ) -> EncodedPairs:
        """The training inputs, on the pixels' device; the captions are already clean."""
        ...

    def release(self) -> None:
        """Leave the device: training is over."""
        ...


class StreamDataModule(L.LightningDataModule):
    """Gives pair batches of a mixture, encoded on the device that trains.

    Workers read, decode and preprocess; the backbone runs in the training process, on its device.
    The whole run is one pass of Lightning's loop, as over cached tokens.

    Args:
        mixture: the pairs.
        preprocess: turns an image into the backbone's pixels, in the workers.
        encode: turns pixels and cleaned captions into training inputs.
        bad_pairs: whether an unreadable pair is an error, or is replaced and counted.
        seed: seeds the order.
        has_bf16: whether a device has instructions for bf16.
        batch_size: pairs per optimiser micro-step and rank.
        num_workers: processes of each rank that read and decode; 0 does so in the training
            process. null means up to 4, limited by the cores and by the shared memory for their
            batches.
        window: number of blocks (tars, or ten thousand pairs of a list) shuffled together.
        max_bad: number of bad pairs of one rank, from the run's start, above which it stops; a
            resumed run continues the first rank's count on each.
        tower_precision: of the backbone's matrix products. bf16 is fp32 if the device has no
            instructions for bf16.

    Raises:
        EdjeError: a window of no blocks, or a pass with fewer pairs than a batch.
    """

    def __init__(
        self,
        mixture: Mixture,
        preprocess: Preprocess,
        encode: PairEncoder,
        bad_pairs: BadImages,
        seed: int,
        has_bf16: Callable[[torch.device], bool],
        *,
        batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt | None = None,
        window: PositiveInt = 16,
        max_bad: NonNegativeInt = 10_000,
        tower_precision: Literal["fp32", "bf16"] = "bf16",
    ):
        super().__init__()
        if window < 1:
            raise EdjeError(f"loader.window={window}: expected at least 1 block.")
        self.order = MixtureOrder(mixture.blocks, window, seed)
        if self.order.rows < batch_size:
            raise EdjeError(
                f"loader.batch_size={batch_size}: a pass over the mixture has {self.order.rows} "
                "pairs. Lower loader.batch_size."
            )
        self.pairs = StreamedPairs(mixture, self.order, preprocess)
        self.encode = encode
        self.bad_pairs = bad_pairs
        self.has_bf16 = has_bf16
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.max_bad = max_bad
        self.half = tower_precision == "bf16"
        self.num_bad = 0

    def train_dataloader(self) -> ResumableLoader:
        """The run's remaining batches."""
        trainer = self.trainer
        assert trainer is not None
        accumulate = trainer.accumulate_grad_batches
        sampler = StreamSampler(
            self.order,
            self.batch_size,
            trainer.max_steps * accumulate,
            trainer.global_step * accumulate,
            trainer.global_rank,
            trainer.world_size,
        )
        workers = self._workers(trainer.num_devices)
        return ResumableLoader(
            self.pairs,
            batch_size=None,  # whole batches are gathered
            sampler=sampler,
            num_workers=workers,
            pin_memory=on_gpu(trainer),
            multiprocessing_context=start_method(workers),
            worker_init_fn=begin,
        )

    def _workers(self, ranks: int) -> int:
        """The requested number of workers of each rank of this machine, or as many as fit.

        Raises:
            EdjeError: shared memory is too small for the requested ones.
        """
        image = self.pairs.preprocess(Image.new("RGB", (64, 64)))
        suited, batch_bytes = share_of_cores(ranks, _MOST_WORKERS), self.batch_size * image.nbytes
        return number_of("loader.num_workers", self.num_workers, suited, ranks, batch_bytes)

    def transfer_batch_to_device(
        self, batch: DecodedPairs | EdjeError, device: torch.device, dataloader_idx: int
    ) -> DecodedPairs:
        """The batch with every tensor on `device` (Lightning doesn't move frozen dataclasses).

        Raises:
            EdjeError: a pair is bad and the policy is `error`, or there are too many.
        """
        if isinstance(batch, EdjeError):
            raise batch
        self._count(batch.problems)
        return batch.to(device)

    def on_after_batch_transfer(self, batch: DecodedPairs, dataloader_idx: int) -> PairBatch:
        """The batch in the form of a cached source's."""
        device = batch.pixels.device
        half = self.half and self.has_bf16(device)
        products = products_in("bf16" if half else "fp32", device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=half)
        with torch.no_grad(), products, autocast:
            encoded = self.encode(batch.pixels, batch.texts)
        return PairBatch(
            sample_ids=batch.sample_ids,
            image_ids=batch.image_ids,
            caption_keys=batch.caption_keys,
            tokens=encoded.tokens.float(),
            text=encoded.text,
            image_embeddings=encoded.image_embeddings.float(),
            text_embeddings=encoded.text_embeddings.float(),
        )

    def teardown(self, stage: str) -> None:
        """Free the device for what follows training."""
        self.encode.release()
        if self.num_bad:
            log.warning("%d bad pairs were replaced by others in this run", self.num_bad)

    def _count(self, problems: list[str]) -> None:
        if problems and self.bad_pairs == "error":
            raise EdjeError(problems[0])
        for problem in problems:
            self.num_bad += 1
            if self.num_bad.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, …
                log.warning("bad pair no. %d of this run, replaced: %s", self.num_bad, problem)
        if self.num_bad > self.max_bad:
            last = f", the last: {problems[-1]}" if problems else "."  # none here in a resumed run
            raise EdjeError(
                f"loader.max_bad={self.max_bad}: there have been {self.num_bad} bad pairs{last} "
                "Fix them, or raise loader.max_bad and resume the run."
            )

    def state_dict(self) -> dict[str, int | str]:
        """The count that a resumed run continues, and the digest that its order must match."""
        return {"num_bad": self.num_bad, "order": self._order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the interrupted run's count; warn if its order can't be continued."""
        self.num_bad = state_dict["num_bad"]
        if state_dict["order"] != self._order:
            log.warning(
                "data.sources or loader changed since this run was interrupted: the remaining "
                "pairs come in another order, and some may be seen a second time"
            )

    @property
    def _order(self) -> str:
        return f"{self.order.digest}, batches of {self.batch_size}"
