"""Which run folder is that of all: rank 0 of a launcher's processes tells, the others hear it.

Through the store that torchrun keeps for its processes, or under srun one that rank 0 opens beside
the port at which the training will meet.
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

PATIENCE = timedelta(minutes=10)  # in which rank 0 composes and checks a configuration
SEEN_WITHIN = 30.0  # seconds that a shared file system may take to show a new file
FOLDER = "run_folder"
LOOK_AGAIN = 0.5  # seconds between two looks whether all have come
_named: list[Path] = []  # the run folder, by rank 0, once the others have it
_open: dict[int, Store] = {}  # by rank; rank 0's is read by the others as long as it lives


def tell(
    process: Launched,
    folder: Path | None,
    cache_dir: Path | None = None,
    *,
    has_failed: bool = False,
) -> None:
    """Name the run folder to the other ranks; None: there is none, they are to end.

    Where rank 0 `has_failed` they end as it does: a launcher waits for those that end well. A file
    in the cache folder lets them see whether theirs is the same.

    Raises:
        EdjeError: the cache folder can't be written, or another rank doesn't come.
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
            f"not every one of the {process.world_size} processes that {process.launcher} has "
            "started came to this run; what the others say is above."
        ) from error
    finally:
        mark.unlink(missing_ok=True)
    assert folder is not None  # there is one where there is a cache
    _named[:] = [folder.absolute()]


def hear(process: Launched) -> Path | None:
    """The run folder that rank 0 names; None where it ends without one.

    Raises:
        SystemExit: rank 0 has failed, and says why itself.
        EdjeError: rank 0 isn't heard, or this node doesn't see its run folder or cache.
    """
    try:
        store = common_store(process)
        places = json.loads(store.get(FOLDER))
    except EdjeError:
        raise
    except Exception as error:  # whatever a lost connection raises
        raise EdjeError(
            f"rank {process.rank} on {socket.gethostname()}: rank 0 named no run folder within "
            f"{PATIENCE.seconds // 60} minutes ({error}). It may have failed; its message says so."
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
                f"rank 0 works in. All nodes need it: give {key}=<a folder on a shared disk>."
            )
    store.set(f"seen {process.rank}", "")
    return config.parent


def meet(process: Launched, place: str) -> None:
    """Wait until all ranks have come to a place of the run, however long one takes to prepare.

    Raises:
        RuntimeError: rank 0 is gone; where another one is, its launcher ends those that wait.
    """
    store = common_store(process)
    store.set(f"{place} {process.rank}", "")
    everyone = [f"{place} {rank}" for rank in range(process.world_size)]
    while not store.check(everyone):
        time.sleep(LOOK_AGAIN)


def is_seen(path: Path) -> bool:
    """Whether a file shows up within the time that shared file systems take."""
    latest = time.monotonic() + SEEN_WITHIN
    while not path.exists() and time.monotonic() < latest:
        time.sleep(0.1)
    return path.exists()


def named_folder() -> Path | None:
    """The run folder that this process, as rank 0, has named; None where it has named none."""
    return _named[0] if _named else None


def common_store(process: Launched) -> Store:
    """The store of all ranks, opened once."""
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
