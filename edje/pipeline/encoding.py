"""Lightning's predict loop over the rest of a store, on one device or one process per device."""

import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import Dataset
from tqdm import tqdm

from edje.backbones.protocol import ImageEncoding
from edje.data.datamodules.shard_datamodule import ShardBatch, ShardDataModule
from edje.data.datamodules.workers import number_of, share_of_cores
from edje.errors import EdjeError
from edje.inference.precisions import has_bf16
from edje.parallel.processes import in_processes
from edje.pipeline.devices import make_current, one_device_trainer
from edje.pipeline.storage import Storage, TowerPrecision
from edje.retrieval.exact import products_in
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import ShardWriter

_MOST_WORKERS = 16  # for decoding images


class Encoder(L.LightningModule):
    """A frozen encoder in Lightning's predict loop."""

    def predict_step(self, batch: ShardBatch, batch_idx: int) -> ImageEncoding:
        """Tokens and features of a batch, on the device that the encoder was moved to."""
        raise NotImplementedError


class Work(Protocol):
    """The content of a store to be made. Pickled, it holds how to build its parts, not weights."""

    description: str
    feature_width: int
    precision: TowerPrecision  # of the encoder's products

    @property
    def image_ids(self) -> Sequence[str]:
        """Ids of the images, sorted."""
        ...

    def encoder(self) -> Encoder:
        """The encoder of the dataset's batches."""
        ...

    def dataset(self) -> Dataset[ShardBatch]:
        """A map from rows to a ShardBatch; its loader may run it in other processes."""
        ...


@dataclass(frozen=True)
class Encoding:
    """Everything that a process needs for its part of filling a store."""

    work: Work
    unfinished: UnfinishedStore
    devices: tuple[torch.device, ...]
    batch_size: int
    num_workers: int

    @classmethod
    def of(
        cls,
        work: Work,
        unfinished: UnfinishedStore,
        storage: Storage,
        devices: Sequence[torch.device],
    ) -> "Encoding":
        """An encoding with the storage's number of loading processes, or one that suits here.

        Raises:
            EdjeError: there are loading processes and the first image can't be read, or shared
                memory is too small for the batches of as many as the storage asks for.
        """
        processes = len(devices)
        suited = 1 if devices[0].type == "cpu" else share_of_cores(processes, _MOST_WORKERS)
        batch_bytes = 0
        if storage.num_workers != 0:  # without workers, batches take no shared memory
            images = min(storage.batch_size, len(work.image_ids))
            batch_bytes = images * work.dataset()[range(1)].inputs.nbytes
        num_workers = number_of(
            "storage.num_workers", storage.num_workers, suited, processes, batch_bytes
        )
        return cls(work, unfinished, tuple(devices), storage.batch_size, num_workers)


def encode_in_processes(encoding: Encoding, bar: tqdm) -> None:
    """Encode and write, in one process per device; the bar shows the total progress.

    Raises:
        EdjeError: a process failed.
    """
    unfinished = encoding.unfinished
    in_processes(
        _part,
        (encoding,),
        len(encoding.devices),
        lambda: bar.update(unfinished.finished_images() - bar.n),
        doing=f"wrote {unfinished.folder}",
        advice="Run the same command again: what was finished is kept.",
    )


def _part(index: int, encoding: Encoding) -> None:
    """The part of one of several processes."""
    encode(encoding, encoding.devices[index], lambda _: None)


def encode(encoding: Encoding, device: torch.device, progress: Callable[[int], object]) -> None:
    """Encode and write in this process, until every shard is finished or taken by another process.

    Raises:
        EdjeError: an image can't be encoded, or the folder can't be written.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    device = make_current(device)
    with ShardWriter(encoding.unfinished) as writer, ExitStack() as computing:
        half = encoding.work.precision == "bf16" and has_bf16(device)

        def begin(*_: object) -> None:
            """Not before Lightning has set up the device: it reads a setting that TF32 breaks."""
            computing.enter_context(products_in(encoding.work.precision, device))

        trainer = one_device_trainer(
            device.type,
            1 if device.type == "cpu" else [device.index],
            callbacks=[_Writes(writer, progress), LambdaCallback(on_predict_start=begin)],
            # Not the trainer's precision: a store doesn't depend on how a run trains.
            precision="bf16-mixed" if half else "32-true",
        )
        data = ShardDataModule(
            encoding.work.dataset(),
            lambda: writer.batches(encoding.batch_size),
            encoding.num_workers,
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.predict(encoding.work.encoder(), data, return_predictions=False)
        except EdjeError as error:  # from a loading process, inside a traceback
            raise EdjeError(str(error).rpartition("EdjeError: ")[2].strip()) from error
        except SystemExit as stop:
            if stop.code != 1:
                raise
            signal.signal(signal.SIGINT, before)  # Lightning disabled it
            raise KeyboardInterrupt from None


class _Writes(L.Callback):
    """Passes predictions to the store's writer."""

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
        """Put the batch into its shard; exit here after a SIGTERM, which Lightning only records."""
        self.writer.put(batch.rows, outputs.tokens, outputs.features)
        self.progress(len(batch.rows))
        if trainer.received_sigterm:
            sys.exit(128 + signal.SIGTERM)
