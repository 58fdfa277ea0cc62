"""Work after the training, shared among a launcher's processes: rank 0 requests it, all help.

The work is in a file on a disk that all ranks see; their store counts how much each has done.
"""

import pickle
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from torch.distributed import DistError

from edje.errors import EdjeError
from edje.parallel.agreement import common_store, is_seen
from edje.parallel.environment import Launched

LOOK_AGAIN = 0.2  # seconds between checks of the store
GOODBYE = timedelta(seconds=20)  # for the others to read that there is no more work
END = "end"
WORK = "work.pickle"
_numbers = count()  # of rank 0's requests


def in_all_ranks(
    process: Launched,
    part: Callable[..., object],
    arguments: tuple[Any, ...],
    folder: Path,
    progress: Callable[[int], object],
) -> None:
    """Run `part(rank, world_size, progress, *arguments)` in every rank; called by rank 0.

    The others must be in `help_rank_0`. `folder` is on a disk that all ranks see. `progress` gets
    the amount of work that all have done since its last call.

    Raises:
        EdjeError: another rank failed.
    """
    store, number, shown = common_store(process), next(_numbers), 0
    (folder / WORK).write_bytes(pickle.dumps((part, arguments)))
    store.set(f"work {number}", str((folder / WORK).absolute()))

    def show() -> None:
        nonlocal shown
        done = store.add(f"done {number}", 0)
        progress(done - shown)
        shown = done

    def own(done: int) -> None:
        store.add(f"done {number}", done)
        show()

    part(0, process.world_size, own, *arguments)
    everyone = [f"did {number} {rank}" for rank in range(1, process.world_size)]
    while not store.check(everyone):
        if store.check([f"failed {number}"]):
            raise EdjeError(store.get(f"failed {number}").decode())
        show()
        time.sleep(LOOK_AGAIN)
    show()


def help_rank_0(process: Launched) -> None:
    """Do this rank's part of whatever rank 0 requests, until there is no more work.

    Raises:
        SystemExit: rank 0 is gone.
        Exception: whatever the part raises; rank 0 gets its message.
    """
    try:
        store = common_store(process)
        for number in count():
            while not store.check([f"work {number}"]):
                time.sleep(LOOK_AGAIN)
            asked = store.get(f"work {number}").decode()
            if asked == END:
                store.set(f"left {process.rank}", "")
                return
            _help_once(process, number, Path(asked))
    except DistError:  # the process with the store is gone
        sys.exit(1)


def _help_once(process: Launched, number: int, file: Path) -> None:
    store = common_store(process)

    def progress(done: int) -> None:
        store.add(f"done {number}", done)

    try:
        if not is_seen(file):
            raise EdjeError(f"{file} isn't visible there")
        part, arguments = pickle.loads(file.read_bytes())  # rank 0 of this run wrote it
        part(process.rank, process.world_size, progress, *arguments)
    except Exception as error:
        said = f"rank {process.rank} on {socket.gethostname()} failed: {error}"
        store.set(f"failed {number}", said)
        raise
    store.set(f"did {number} {process.rank}", "")


def dismiss(process: Launched, *, wait: bool) -> None:
    """Let the other ranks exit: rank 0, which calls this, has no more work for them.

    If rank 0 has their store, `wait` keeps it open until they have read this.
    """
    with suppress(RuntimeError):  # from a store whose other users are gone or done
        store = common_store(process)
        store.set(f"work {next(_numbers)}", END)
        if wait:
            store.wait([f"left {rank}" for rank in range(1, process.world_size)], GOODBYE)
