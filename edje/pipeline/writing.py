"""Filling token stores with Lightning's predict loop, on all devices."""

import json
import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from edje.durable import writing_to
from edje.errors import EdjeError
from edje.identity import differing_names
from edje.parallel.agreement import check_others, of_rank_0
from edje.parallel.environment import Launched, launched, own_rank
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
_LEADER_SECONDS = 300  # that a joined run waits for one that leads


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
    """Write a store if there is none.

    Processes, one per device, claim shards; the bytes don't depend on their number. After a kill,
    another call continues with the finished shards. If another run is writing the store, this
    waits for it, or with `storage.join` helps it. With `by_all_ranks` a launcher's other ranks help
    rank 0, each with its own device instead of several processes. `prepare` is only called if
    there is something to write.

    Raises:
        EdjeError: the folder holds another store, can't be written, or, with `wait` off, is
            being written; an image can't be encoded; with `storage.join`, no run leads; or, with
            `by_all_ranks`, rank 0 writes another store or another rank has failed.
    """
    process = launched() if by_all_ranks else None
    if process is not None:
        _check_store_of_rank_0(process, folder, fingerprint)
    if (folder / STORE_FILE).is_file():
        return
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    helps = storage.join or (by_all_ranks and own_rank() > 0)
    if storage.join:
        _wait_for_leader(folder)
    with nullcontext() if helps else writer_lock(folder, wait=wait):
        if (folder / STORE_FILE).is_file():  # the other run has written it
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
            if not _has_work(unfinished, helps):  # other runs are doing the rest
                time.sleep(_POLL_SECONDS)
                if process is not None:
                    check_others(process)
                if storage.join:
                    _wait_for_leader(folder)
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
    """Wait while another run is writing a store."""
    announced = False
    while is_being_written(folder):
        if not announced:
            log.info("waiting for the run that writes %s", folder)
            announced = True
        time.sleep(_POLL_SECONDS)


def _check_store_of_rank_0(process: Launched, folder: Path, fingerprint: Fingerprint) -> None:
    """Refuse to help with a store that rank 0 doesn't write, which would never be finished.

    Raises:
        EdjeError: rank 0 writes another store; the message names what differs.
    """
    own = {"store": folder.name, "facts": fingerprint.fields}
    first = json.loads(of_rank_0(process, json.dumps(own)))
    if first["store"] != folder.name:
        differing = ", ".join(differing_names(first["facts"], fingerprint.fields))
        raise EdjeError(
            f"{folder.parent.name}: on {socket.gethostname()} the store to write is {folder.name}, "
            f"but rank 0 writes {first['store']}; they differ in {differing}. Give every node the "
            "same images, weights and version of edje, on a shared disk or as equal copies."
        )


def _wait_for_leader(folder: Path) -> None:
    """Wait until a run leads the writing of a store, or has finished it.

    Raises:
        EdjeError: none has begun within five minutes.
    """
    end, announced = time.monotonic() + _LEADER_SECONDS, False
    while not (is_being_written(folder) or (folder / STORE_FILE).is_file()):
        if time.monotonic() > end:
            raise EdjeError(
                f"storage.join=true: no run writes {folder}, which this one would help. Start one "
                "without storage.join, or run this command without it: what was finished is kept."
            )
        if not announced:
            log.warning("no run writes %s; waiting for one to help", folder)
            announced = True
        time.sleep(_POLL_SECONDS)


def _is_unwritten(unfinished: UnfinishedStore, joined: bool) -> bool:
    """Whether shards are left; for a joined run, whether the leading run isn't done."""
    if joined:
        return not (unfinished.folder / STORE_FILE).is_file()
    return bool(unfinished.pending())


def _has_work(unfinished: UnfinishedStore, joined: bool) -> bool:
    """Whether there is work now; joined runs start after the leading one."""
    return (not joined or is_being_written(unfinished.folder)) and bool(unfinished.unclaimed())
