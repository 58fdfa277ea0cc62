"""Filling token stores through Lightning's predict loop, on every device there is."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from edje.durable import writing_to
from edje.parallel.environment import own_rank
from edje.pipeline.devices import of_this_process
from edje.pipeline.encoding import Encoding, Work, encode, encode_in_processes
from edje.pipeline.storage import Storage
from edje.tokens.codec import Codec
from edje.tokens.fingerprint import Fingerprint
from edje.tokens.lock import is_being_written, writer_lock
from edje.tokens.manifest import STORE_FILE
from edje.tokens.unfinished import UnfinishedStore
from edje.tokens.writer import make_plan

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5


def fill_store(
    folder: Path,
    fingerprint: Fingerprint,
    codec: Codec,
    prepare: Callable[[], Work],
    storage: Storage,
    devices: Sequence[torch.device],
    *,
    wait: bool = True,
    by_all_ranks: bool = False,
) -> None:
    """Write a store where there is none.

    Processes, one per device, claim shards; the bytes don't depend on their number. A killed run
    is continued, the finished shards are kept. Another run that writes the store is waited for, or
    with `storage.join` helped; so is rank 0 by all others of a launcher, `by_all_ranks`, each with
    a device of its own instead of processes. `prepare` is called where there is something to write.

    Raises:
        EdjeError: the folder holds another store, can't be written, or, with `wait` off, is
            being written; or an image can't be encoded.
    """
    if (folder / STORE_FILE).is_file():
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    helps = storage.join or (by_all_ranks and own_rank() > 0)
    with nullcontext() if helps else writer_lock(folder, wait=wait):
        if (folder / STORE_FILE).is_file():  # by the run that was waited for
            return
        work = prepare()
        plan = make_plan(fingerprint, work.image_ids, codec, work.feature_width)
        unfinished = UnfinishedStore(folder, plan, work.image_ids)
        encoding = Encoding.of(work, unfinished, storage, devices)
        if helps:
            log.info("joining the run that writes %s", folder)
        else:
            unfinished.begin()
        while _is_unwritten(unfinished, helps):
            if not _has_work(unfinished, helps):  # other runs have the rest
                time.sleep(_POLL_SECONDS)
                continue
            total, done = plan.num_images, unfinished.finished_images()
            shown = {"desc": work.description, "unit": "image", "disable": own_rank() > 0}
            with tqdm(total=total, initial=done, **shown) as bar:
                if by_all_ranks or len(devices) == 1:
                    encode(encoding, of_this_process(devices), bar.update)
                else:
                    encode_in_processes(encoding, bar)
        if not helps:
            unfinished.finish()


def wait_until_written(folder: Path) -> None:
    """Wait as long as another run is writing a store."""
    announced = False
    while is_being_written(folder):
        if not announced:
            log.info("waiting for the run that writes %s", folder)
            announced = True
        time.sleep(_POLL_SECONDS)


def _is_unwritten(unfinished: UnfinishedStore, joined: bool) -> bool:
    """Whether shards are left; to a run that joined another, whether that one isn't done."""
    if joined:
        return not (unfinished.folder / STORE_FILE).is_file()
    return bool(unfinished.pending())


def _has_work(unfinished: UnfinishedStore, joined: bool) -> bool:
    """Whether there is something to do now: joined runs begin after the one that leads."""
    return (not joined or is_being_written(unfinished.folder)) and bool(unfinished.unclaimed())
