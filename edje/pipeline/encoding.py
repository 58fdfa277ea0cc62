"""Lightning's predict loop over what is left of a store, in a process for each device."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from edje.backbones.protocol import ImageEncoding
from edje.data.datamodules.shard_datamodule import ShardBatch, ShardDataModule
from edje.data.datamodules.workers import share_of_cores
from edje.errors import EdjeError
from edje.parallel.processes import in_processes
from edje.pipeline.devices import TowerPrecision, devices_of, one_device_trainer, products_in
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import ShardWriter

_MOST_WORKERS = 16  # they decode images


class Work(Protocol):
    """What a store is made from. Pickled, it carries how to build its parts, not weights."""

    description: str
    feature_width: int
    precision: TowerPrecision  # of the encoder's products

    @property
    def image_ids(self) -> Sequence[str]:
        """Ids of the images, sorted."""
        ...

    def encoder(self) -> nn.Module:
        """Maps a ShardBatch to an ImageEncoding, on the device that it is moved to."""
        ...

    def dataset(self) -> Dataset[ShardBatch]:
        """Maps rows to a ShardBatch; its loader may run it in other processes."""
        ...


@dataclass(frozen=True)
class Encoding:
    """All that a process needs to do its part in filling a store."""

    work: Work
    unfinished: UnfinishedStore
    devices: tuple[torch.device, ...]
    batch_size: int
    num_workers: int

    @classmethod
    def on(
        cls,
        trainer: DictConfig,
        work: Work,
        unfinished: UnfinishedStore,
        batch_size: int,
        num_workers: int | None,
    ) -> "Encoding":
        """On the accelerator and all devices that a trainer is configured for."""
        devices = devices_of(trainer)
        if num_workers is None:
            share = share_of_cores(len(devices), _MOST_WORKERS)
            num_workers = 1 if devices[0].type == "cpu" else share
        return cls(work, unfinished, devices, batch_size, num_workers)

    def run(self) -> None:
        """Write what nobody else is writing: in this process, or in one for each device.

        Raises:
            EdjeError: a process failed.
        """
        store = self.unfinished
        total, done = store.plan.num_images, store.finished_images()
        with tqdm(total=total, initial=done, desc=self.work.description, unit="image") as bar:
            if len(self.devices) == 1:
                _predict(self, self.devices[0], bar.update)
            else:
                self._run_processes(lambda: bar.update(store.finished_images() - bar.n))

    def _run_processes(self, show: Callable[[], object]) -> None:
        in_processes(
            _part,
            (self,),
            len(self.devices),
            show,
            doing=f"wrote {self.unfinished.folder}",
            advice="Run the same command again: what was finished is kept.",
        )


def _part(index: int, encoding: Encoding) -> None:
    """What each of several processes does."""
    _predict(encoding, encoding.devices[index], lambda _: None)


def _predict(encoding: Encoding, device: torch.device, progress: Callable[[int], object]) -> None:
    """Encode and write in this process, until every shard is finished or another's.

    Raises:
        EdjeError: an image can't be encoded, or the folder not be written.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    with ShardWriter(encoding.unfinished) as writer:
        trainer = one_device_trainer(
            device.type,
            1 if device.type == "cpu" else [device.index],
            callbacks=[_Writes(writer, progress)],
            # Not the trainer's: what a store holds doesn't depend on how a run trains.
            precision="bf16-mixed" if encoding.work.precision == "bf16" else "32-true",
        )
        data = ShardDataModule(
            encoding.work.dataset(),
            lambda: writer.batches(encoding.batch_size),
            encoding.num_workers,
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            with products_in(encoding.work.precision, device):
                trainer.predict(
                    _Prediction(encoding.work.encoder()), data, return_predictions=False
                )
        except EdjeError as error:  # of a loading process: within a traceback
            raise EdjeError(str(error).rpartition("EdjeError: ")[2].strip()) from error
        except SystemExit as stop:
            if stop.code != 1:
                raise
            signal.signal(signal.SIGINT, before)  # Lightning has silenced it
            raise KeyboardInterrupt from None


class _Prediction(L.LightningModule):
    """A frozen encoder in Lightning's predict loop."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def predict_step(self, batch: ShardBatch, batch_idx: int) -> ImageEncoding:
        """Tokens and features of a batch."""
        return self.encoder(batch)


class _Writes(L.Callback):
    """Hands what is predicted to the store's writer."""

    def __init__(self, writer: ShardWriter, progress: Callable[[int], object]):
        self.writer = writer
        self.progress = progress

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: ShardBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put the batch into its shard; end here after a SIGTERM, which Lightning only notes."""
        self.writer.put(batch.rows, outputs.tokens, outputs.features)
        self.progress(len(batch.rows))
        if trainer.received_sigterm:
            sys.exit(128 + signal.SIGTERM)
