"""Filling token stores through Lightning's predict loop, on every device of the trainer."""

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from omegaconf import DictConfig

from edje.durable import writing_to
from edje.pipeline.devices import TowerPrecision
from edje.pipeline.encoding import Encoding, Work
from edje.ranges import NonNegativeInt, PositiveInt
from edje.tokens.codec import Codec, CodecName
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import is_being_written, writer_lock
from edje.tokens.manifest import STORE_FILE
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import make_plan

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5


class Storage:
    """In which number format tokens are stored, and how token stores are written.

    Args:
        raw_codec: number format of the backbone's tokens.
        compressed_codec: number format of the adapter's tokens, also where they are compressed to
            be scored at once.
        batch_size: images encoded at once. Batches don't cross shards; another size may change
            the last bits of the tokens.
        num_workers: processes per device that read and decode images; null is one per core, up
            to 16, on an accelerator, and 1 on a CPU, whose cores the tower needs.
        join: help a run on another machine that writes the same store into a shared folder.
        tower_precision: of the tower's products. tf32 keeps 10 bits of a number on a GPU, more
            than a bf16 cell's 8, and is float32 elsewhere; fp32 is float32 everywhere; bf16 is
            autocast, about twice as fast again on a GPU, and its stores are others than those of
            tf32.
    """

    def __init__(
        self,
        *,
        raw_codec: CodecName = "bf16",
        compressed_codec: CodecName = "bf16",
        batch_size: PositiveInt = 64,
        num_workers: NonNegativeInt | None = None,
        join: bool = False,
        tower_precision: TowerPrecision = "tf32",
    ):
        self.raw_codec = raw_codec
        self.compressed_codec = compressed_codec
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.join = join
        self.tower_precision: TowerPrecision = tower_precision


def fill_store(
    folder: Path,
    fingerprint: Fingerprint,
    codec: Codec,
    prepare: Callable[[], Work],
    storage: Storage,
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
    with nullcontext() if storage.join else writer_lock(folder, wait=wait):
        if (folder / STORE_FILE).is_file():  # by the run that was waited for
            return
        work = prepare()
        plan = make_plan(fingerprint, work.image_ids, codec, work.feature_width)
        unfinished = UnfinishedStore(folder, plan, work.image_ids)
        encoding = Encoding.on(trainer, work, unfinished, storage.batch_size, storage.num_workers)
        if storage.join:
            _follow(unfinished, encoding)
        else:
            _lead(unfinished, encoding)


def wait_until_written(folder: Path) -> None:
    """Wait as long as another run is writing a store."""
    announced = False
    while is_being_written(folder):
        if not announced:
            log.info("waiting for the run that writes %s", folder)
            announced = True
        time.sleep(_POLL_SECONDS)


def _lead(unfinished: UnfinishedStore, encoding: Encoding) -> None:
    unfinished.begin()
    while unfinished.pending():
        if unfinished.unclaimed():
            encoding.run()
        else:  # runs that joined have the rest
            time.sleep(_POLL_SECONDS)
    unfinished.finish()


def _follow(unfinished: UnfinishedStore, encoding: Encoding) -> None:
    """Take part in a store that another run leads, until it is complete."""
    folder = unfinished.folder
    log.info("joining the run that writes %s", folder)
    while not (folder / STORE_FILE).is_file():
        if is_being_written(folder) and unfinished.unclaimed():
            encoding.run()
        time.sleep(_POLL_SECONDS)
