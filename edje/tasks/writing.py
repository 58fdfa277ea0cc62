"""Filling token stores through Lightning's predict loop, on every device of the trainer."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from omegaconf import DictConfig
from torch import nn
from torch.multiprocessing import ProcessExitedException, get_context, start_processes
from torch.utils.data import Dataset
from tqdm import tqdm

from edje.backbones.protocol import ImageEncoding
from edje.data.shard_datamodule import ShardBatch, ShardDataModule
from edje.errors import EdjeError
from edje.tasks.console import quiet_libraries
from edje.tokens.codec import Codec
from edje.tokens.durable import writing_to
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import is_being_written, writer_lock
from edje.tokens.manifest import STORE_FILE
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import ShardWriter, make_plan

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_MOST_WORKERS = 16


class Writing:
    """How token stores are written.

    Args:
        batch_size: images encoded at once. Batches don't cross shards; another size may change
            the last bits of the tokens.
        num_workers: processes per device that read and decode images; null is one per core, up
            to 16, on an accelerator, and 1 on a CPU, whose cores the tower needs.
        join: help a run on another machine that writes the same store into a shared folder.
    """

    def __init__(self, *, batch_size: int = 64, num_workers: int | None = None, join: bool = False):
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.join = join


class Work(Protocol):
    """What a store is made from. Pickled, it carries how to build its parts, not weights."""

    description: str
    feature_width: int

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
class _Task:
    """All that one process needs to do its part."""

    work: Work
    unfinished: UnfinishedStore
    accelerator: str
    batch_size: int
    num_workers: int


def fill_store(
    folder: Path,
    fingerprint: Fingerprint,
    codec: Codec,
    prepare: Callable[[], Work],
    writing: Writing,
    trainer: DictConfig,
    *,
    wait: bool = True,
) -> None:
    """Write a store where there is none, on the accelerator and all devices of the trainer.

    Processes, one per device, claim shards; the bytes don't depend on their number. A killed run
    is continued, the finished shards are kept. Another run that writes the store is waited for.
    `prepare` is called where there is something to write.

    Raises:
        EdjeError: the folder holds another store, can't be written, or, with `wait` off, is
            being written; or an image can't be encoded.
    """
    if (folder / STORE_FILE).is_file():
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if writing.join else writer_lock(folder, wait=wait):
        if (folder / STORE_FILE).is_file():  # by the run that was waited for
            return
        work = prepare()
        plan = make_plan(fingerprint, work.image_ids, codec, work.feature_width)
        unfinished = UnfinishedStore(folder, plan, work.image_ids)
        if writing.join:
            _follow(unfinished, work, writing, trainer)
        else:
            _lead(unfinished, work, writing, trainer)


def wait_until_written(folder: Path) -> None:
    """Wait as long as another run is writing a store."""
    announced = False
    while is_being_written(folder):
        if not announced:
            log.info("waiting for the run that writes %s", folder)
            announced = True
        time.sleep(_POLL_SECONDS)


def _lead(unfinished: UnfinishedStore, work: Work, writing: Writing, trainer: DictConfig) -> None:
    unfinished.begin()
    while unfinished.pending():
        if unfinished.unclaimed():
            _run(unfinished, work, writing, trainer)
        else:  # runs that joined have the rest
            time.sleep(_POLL_SECONDS)
    unfinished.finish()


def _follow(unfinished: UnfinishedStore, work: Work, writing: Writing, trainer: DictConfig) -> None:
    """Take part in a store that another run leads, until it is complete."""
    folder = unfinished.folder
    log.info("joining the run that writes %s", folder)
    while not (folder / STORE_FILE).is_file():
        if is_being_written(folder) and unfinished.unclaimed():
            _run(unfinished, work, writing, trainer)
        time.sleep(_POLL_SECONDS)


def _run(unfinished: UnfinishedStore, work: Work, writing: Writing, trainer: DictConfig) -> None:
    """Write what nobody else is writing: in this process, or in one for each of several devices.

    Raises:
        EdjeError: a process failed.
    """
    accelerator, devices = _devices(trainer)
    workers = writing.num_workers
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = 1 if accelerator == "cpu" else min(_MOST_WORKERS, (cores or 1) // len(devices))
    task = _Task(work, unfinished, accelerator, writing.batch_size, workers)
    done = unfinished.finished_images()
    total = unfinished.plan.num_images
    with tqdm(total=total, initial=done, desc=work.description, unit="image") as bar:
        if len(devices) == 1:
            _predict(task, devices[0], bar.update)
            return
        context = get_context("spawn")
        problems: Any = context.SimpleQueue()
        processes = start_processes(
            _part, (task, devices, problems), len(devices), join=False, start_method="spawn"
        )
        try:
            while not processes.join(timeout=_POLL_SECONDS):
                if (done := unfinished.finished_images()) > bar.n:
                    bar.update(done - bar.n)
        except ProcessExitedException as error:
            if not problems.empty():
                raise EdjeError(problems.get()) from error
            raise EdjeError(
                f"a process that wrote {unfinished.folder} was ended from outside ({error}), "
                "perhaps for lack of memory. Run the same command again: what was finished is kept."
            ) from error
        finally:
            for process in processes.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        bar.update(total - bar.n)


def _part(index: int, task: _Task, devices: Sequence[int], problems: Any) -> None:
    """What each of several processes does."""
    quiet_libraries()
    torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    try:
        _predict(task, devices[index], lambda _: None)
    except EdjeError as error:
        problems.put(str(error))
        sys.exit(1)


def _predict(task: _Task, device: int, progress: Callable[[int], object]) -> None:
    """Encode and write in this process, until every shard is finished or another's.

    Raises:
        EdjeError: an image can't be encoded, or the folder not be written.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    with ShardWriter(task.unfinished) as writer:
        devices = 1 if task.accelerator == "cpu" else [device]
        trainer = _trainer(task.accelerator, devices, [_Writes(writer, progress)])
        data = ShardDataModule(
            task.work.dataset(), lambda: writer.batches(task.batch_size), task.num_workers
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.predict(_Encoding(task.work.encoder()), data, return_predictions=False)
        except EdjeError as error:  # of a loading process: within a traceback
            raise EdjeError(str(error).rpartition("EdjeError: ")[2].strip()) from error
        except SystemExit as stop:
            if stop.code != 1:
                raise
            signal.signal(signal.SIGINT, before)  # Lightning has silenced it
            raise KeyboardInterrupt from None


class _Encoding(L.LightningModule):
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


def _trainer(accelerator: str, devices: Any, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """In full precision: what a store holds doesn't depend on how a run trains."""
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        callbacks=list(callbacks),
        precision="32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # not a scheduler's: each process has one device
    )


def _devices(trainer: DictConfig) -> tuple[str, list[int]]:
    """The accelerator's name and the indices of the devices that the trainer is configured for."""
    asked = _trainer(trainer.get("accelerator", "auto"), trainer.get("devices", "auto"))
    if isinstance(asked.accelerator, CPUAccelerator):
        return "cpu", list(range(asked.num_devices))
    return str(trainer.get("accelerator", "auto")), list(asked.device_ids)
