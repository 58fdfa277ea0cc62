"""Agreeing on one run folder: rank 0 of a launcher's processes announces it to the others.

They use the store that torchrun keeps for its processes. Under srun, rank 0 opens a store on the
port after the one that the training uses.
"""

import json
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

from torch.distributed import DistError, DistNetworkError, PrefixStore, Store, TCPStore

from edje.durable import writing_to
from edje.errors import EdjeError
from edje.parallel.cluster import slurm_processes
from edje.parallel.environment import Launched

PATIENCE = timedelta(minutes=10)  # for rank 0 to compose and check a configuration
SEEN_WITHIN = 30.0  # seconds that a shared file system may take to show a new file
FOLDER = "run_folder"
FAILED = "failed"
LOOK_AGAIN = 0.5  # seconds between checks whether all ranks are there
_named: list[Path] = []  # the run folder that rank 0 announced, once the others have it
_open: dict[int, Store] = {}  # by rank; the others read rank 0's while it lives
_calls: defaultdict[int, Iterator[int]] = defaultdict(count)  # by rank, of `of_rank_0`


def tell(
    process: Launched,
    folder: Path | None,
    cache_dir: Path | None = None,
    *,
    has_failed: bool = False,
) -> None:
    """Announce the run folder to the other ranks; None: there is none, and they exit.

    They also hear of the working folder, to which relative paths refer. If rank 0 `has_failed`,
    they exit with an error too, because a launcher waits for processes that exit normally. A file
    in the cache folder lets them check that they see the same folder.

    Raises:
        EdjeError: the cache folder can't be written, or another rank doesn't arrive.
    """
    store = common_store(process)
    mark = None
    if cache_dir is not None:
        mark = cache_dir.absolute() / f".seen-{os.getpid()}-{time.time_ns()}"
        with writing_to(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            mark.touch()
    places: dict[str, object] = {"has_failed": has_failed}
    if folder is not None:
        places |= {"folder": str(folder.absolute()), "mark": str(mark), "working": str(Path.cwd())}
    store.set(FOLDER, json.dumps(places))
    if mark is None:
        return
    try:
        store.wait([f"seen {rank}" for rank in range(1, process.world_size)], PATIENCE)
    except Exception as error:
        raise EdjeError(
            f"not all of the {process.world_size} processes that {process.launcher} started joined "
            "this run; the messages of the others are above."
        ) from error
    finally:
        mark.unlink(missing_ok=True)
    assert folder is not None  # with a cache folder there is a run folder
    _named[:] = [folder.absolute()]


def hear(process: Launched) -> Path | None:
    """The run folder that rank 0 announces; None if rank 0 ends without one.

    This process then works in rank 0's working folder.

    Raises:
        SystemExit: rank 0 has failed and reports why itself.
        EdjeError: rank 0 doesn't answer, or this node doesn't see its run folder, cache or working
            folder.
    """
    here = f"rank {process.rank} on {socket.gethostname()}"
    try:
        store = common_store(process)
        places = json.loads(store.get(FOLDER))
    except EdjeError:
        raise
    except Exception as error:  # a lost connection may raise anything
        raise EdjeError(
            f"{here}: rank 0 announced no run folder within {PATIENCE.seconds // 60} minutes "
            f"({error}). It may have failed: see its message."
        ) from error
    if places["has_failed"]:
        sys.exit(1)
    if "folder" not in places:
        return None
    config = Path(places["folder"]) / "config.yaml"
    for path, key in ((config, "hydra.run.dir"), (Path(places["mark"]), "cache_dir")):
        if not is_seen(path):
            raise EdjeError(
                f"{here} doesn't see {path.parent}, which rank 0 uses. All nodes need it: give "
                f"{key}=<a folder on a shared disk>."
            )
    working = Path(places["working"])
    try:
        is_seen(working)
        os.chdir(working)
    except OSError as error:
        raise EdjeError(
            f"{here} can't enter {working}, in which rank 0 works ({error.strerror}). Start all "
            "processes in a folder that every node has, for example on a shared disk."
        ) from error
    store.set(f"seen {process.rank}", "")
    return config.parent


def meet(process: Launched, place: str) -> None:
    """Wait until all ranks have reached a point of the run, however long one takes to prepare.

    Raises:
        RuntimeError: rank 0 is gone.
        EdjeError: as `check_others`.
    """
    store = common_store(process)
    store.set(f"{place} {process.rank}", "")
    everyone = [f"{place} {rank}" for rank in range(process.world_size)]
    while not store.check(everyone):
        check_others(process)
        time.sleep(LOOK_AGAIN)


def of_rank_0(process: Launched, value: str) -> str:
    """Rank 0's text of the same call, which all ranks make, however long one takes to get there.

    Raises:
        EdjeError: as `check_others`.
    """
    name, store = f"text {next(_calls[process.rank])}", common_store(process)
    if process.rank == 0:
        store.set(name, value)
    while True:
        check_others(process)
        if store.check([name]):
            return store.get(name).decode()
        time.sleep(LOOK_AGAIN)


def tell_failure(process: Launched, error: Exception) -> None:
    """Let the other ranks know that this one has failed: launchers don't tell other nodes."""
    with suppress(RuntimeError):  # from a store whose other users are gone
        said = f"rank {process.rank} on {socket.gethostname()} failed: {error}"
        common_store(process).set(FAILED, said)


def check_others(process: Launched) -> None:
    """End this rank if another one has failed; called while it waits for the others.

    Raises:
        SystemExit: another rank has failed, and rank 0 reports it.
        EdjeError: rank 0 is gone; or, on rank 0, another rank has failed.
    """
    try:
        store = common_store(process)
        said = store.get(FAILED).decode() if store.check([FAILED]) else None
    except DistError as error:
        raise EdjeError(
            f"rank {process.rank} on {socket.gethostname()}: rank 0 is gone. Its message is above, "
            "or in the log of its node."
        ) from error
    if said is not None and process.rank > 0:
        sys.exit(1)
    if said is not None:
        raise EdjeError(said)


def is_seen(path: Path) -> bool:
    """Whether a file becomes visible within the time that shared file systems need."""
    latest = time.monotonic() + SEEN_WITHIN
    while not path.exists() and time.monotonic() < latest:
        time.sleep(0.1)
    return path.exists()


def named_folder() -> Path | None:
    """The run folder that this process, as rank 0, has announced; None if none."""
    return _named[0] if _named else None


def common_store(process: Launched) -> Store:
    """The store shared by all ranks, opened once.

    Raises:
        EdjeError: another program uses its port.
    """
    if process.rank not in _open:
        _open[process.rank] = _store(process)
    return _open[process.rank]


def taken_port(process: Launched, port: int) -> EdjeError:
    """The error for a port, of the two where the ranks meet, that another program uses."""
    way = "export MASTER_PORT=" if process.launcher == "srun" else "torchrun --master-port="
    return EdjeError(
        f"rank {process.rank} on {socket.gethostname()}: another program uses port {port}, at "
        f"which the processes of this run would meet. Choose another: {way}<a free port>. The next "
        "port is used too."
    )


def _store(process: Launched) -> Store:
    if process.launcher == "srun":
        cluster = slurm_processes()
        address, port, kept = cluster.main_address, cluster.main_port + 1, False
        run = os.environ.get("SLURM_STEP_ID", "0")
    else:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        port = port if kept else port + 1
        run = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    opens = process.rank == 0 and not kept
    try:
        store = TCPStore(address, port, is_master=opens, wait_for_workers=False, timeout=PATIENCE)
    except DistNetworkError as error:
        if not opens or "EADDRINUSE" not in str(error):
            raise
        raise taken_port(process, port) from error
    return PrefixStore(f"edje {run}", store)
