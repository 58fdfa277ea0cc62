"""Agreeing on one run folder: rank 0 of a launcher's processes announces it to the others.

They use the store that torchrun keeps for its processes. Under srun, rank 0 opens a store on the
port after the one that the training uses.
"""

import json
import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import PrefixStore, Store, TCPStore

from edje.durable import writing_to
from edje.errors import EdjeError
from edje.parallel.cluster import slurm_processes
from edje.parallel.environment import Launched

PATIENCE = timedelta(minutes=10)  # for rank 0 to compose and check a configuration
SEEN_WITHIN = 30.0  # seconds that a shared file system may take to show a new file
FOLDER = "run_folder"
LOOK_AGAIN = 0.5  # seconds between checks whether all ranks are there
_named: list[Path] = []  # the run folder that rank 0 announced, once the others have it
_open: dict[int, Store] = {}  # by rank; the others read rank 0's while it lives


def tell(
    process: Launched,
    folder: Path | None,
    cache_dir: Path | None = None,
    *,
    has_failed: bool = False,
) -> None:
    """Announce the run folder to the other ranks; None: there is none, and they exit.

    If rank 0 `has_failed`, they exit with an error too, because a launcher waits for processes
    that exit normally. A file in the cache folder lets them check that they see the same folder.

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
        places |= {"folder": str(folder.absolute()), "mark": str(mark)}
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

    Raises:
        SystemExit: rank 0 has failed and reports why itself.
        EdjeError: rank 0 doesn't answer, or this node doesn't see its run folder or cache.
    """
    try:
        store = common_store(process)
        places = json.loads(store.get(FOLDER))
    except EdjeError:
        raise
    except Exception as error:  # a lost connection may raise anything
        raise EdjeError(
            f"rank {process.rank} on {socket.gethostname()}: rank 0 announced no run folder within "
            f"{PATIENCE.seconds // 60} minutes ({error}). It may have failed: see its message."
        ) from error
    if places["has_failed"]:
        sys.exit(1)
    if "folder" not in places:
        return None
    config = Path(places["folder"]) / "config.yaml"
    for path, key in ((config, "hydra.run.dir"), (Path(places["mark"]), "cache_dir")):
        if not is_seen(path):
            raise EdjeError(
                f"rank {process.rank} on {socket.gethostname()} doesn't see {path.parent}, which "
                f"rank 0 uses. All nodes need it: give {key}=<a folder on a shared disk>."
            )
    store.set(f"seen {process.rank}", "")
    return config.parent


def meet(process: Launched, place: str) -> None:
    """Wait until all ranks have reached a point of the run, however long one takes to prepare.

    Raises:
        RuntimeError: rank 0 is gone; if another rank is, its launcher ends the waiting ones.
    """
    store = common_store(process)
    store.set(f"{place} {process.rank}", "")
    everyone = [f"{place} {rank}" for rank in range(process.world_size)]
    while not store.check(everyone):
        time.sleep(LOOK_AGAIN)


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
    """The store shared by all ranks, opened once."""
    if process.rank not in _open:
        _open[process.rank] = _store(process)
    return _open[process.rank]


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
    store = TCPStore(
        address,
        port,
        is_master=process.rank == 0 and not kept,
        wait_for_workers=False,
        timeout=PATIENCE,
    )
    return PrefixStore(f"edje {run}", store)
