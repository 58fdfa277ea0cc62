"""Ray, which can run an addition: its cluster's address and places; imported when needed."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from edje.errors import EdjeError, first_line
from edje.index.lance_library import OF_RAY, of_an_extra

STORE_BYTES = 200_000_000  # of a cluster started here: units and outcomes are small
OF_A_START = {  # environment variables of what is started here, unless they are set
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # only what the user can act on
    "RAY_USAGE_STATS_ENABLED": "0",  # sends nothing to Ray's makers
    "RAY_worker_niceness": "0",  # added to this process's; the default 15 is slow beside other work
}
SETTINGS = {"enable_progress_bars": False, "print_on_execution_start": False}  # of Ray Data
LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """A cluster of Ray, and how it is used.

    Args:
        address: of a running cluster, "auto" for this machine's. By default the one to which this
            program or RAY_ADDRESS is connected; without one, a cluster is started on this
            machine's cores and ends with the addition.
        workers: processes that encode, each with the reranker; by default one per GPU, or one per
            core if there is none.
        unit: number of files that one worker encodes and writes as one piece of the table; a tar
            or Parquet file is a unit by itself.
    """

    address: str | None = None
    workers: int | None = None
    unit: int = 512

    def __post_init__(self) -> None:
        for name in ("workers", "unit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise EdjeError(f"ray: {name}={value}, expected a whole number of 1 or more.")


Engine = Literal["local", "ray"] | RayEngine


@contextmanager
def connected(engine: RayEngine) -> Iterator[Any]:
    """The library in the block, connected to the cluster.

    Raises:
        EdjeError: it isn't installed, or there is no cluster at the address.
    """
    library = ray_library()
    if library.is_initialized():
        yield library
        return
    address = engine.address or os.environ.get("RAY_ADDRESS") or LOCAL
    own = {"object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        with silence():
            library.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(own if address == LOCAL else {}),
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = first_line(error).rstrip(".")
        raise EdjeError(
            f"ray.address={address}: {said}. Start a cluster (ray start --head), or leave the "
            "address out to start one on this machine."
        ) from error
    try:
        yield library
    finally:
        library.shutdown()


def places_with_gpu(nodes: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """How many workers with a GPU the nodes of a cluster have room for, and the cores of each.

    All workers are alike, but a worker is on one node, so they get what the node with the fewest
    cores per GPU has. A node with fewer cores than GPUs counts only if there are no others; its
    workers reserve none.
    """
    living = [node["Resources"] for node in nodes if node["Alive"]]
    found = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in living]
    with_gpu = [(cores, gpus) for cores, gpus in found if gpus]
    each = min((cores // gpus for cores, gpus in with_gpu if cores >= gpus), default=0)
    return sum(gpus for cores, gpus in with_gpu if cores >= gpus or not each), each


def ray_library() -> Any:
    """The library Ray.

    Raises:
        EdjeError: it isn't installed.
    """
    with of_an_extra(*OF_RAY):
        import ray
        import ray.data
    return ray


@contextmanager
def silence() -> Iterator[None]:
    """Let only exceptions out of the block, in which Ray's processes are started.

    What is started in it stays silent. Ray's C++ part writes to the file descriptor of stderr,
    even a message about being silenced; and Lance warns about the forks that start processes.
    """
    ours = {name: value for name, value in OF_A_START.items() if name not in os.environ}
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.environ |= ours
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        for name in ours:
            del os.environ[name]


@contextmanager
def data_library(library: Any) -> Iterator[Any]:
    """Ray Data in the block, silent, as an addition shows its own progress bar."""
    log = logging.getLogger("ray.data")
    level = log.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")  # about its own code
        context = library.data.DataContext.get_current()
        before = {name: getattr(context, name) for name in SETTINGS}
        try:
            log.setLevel(logging.ERROR)
            for name, value in SETTINGS.items():
                setattr(context, name, value)
            yield library.data
        finally:
            for name, value in before.items():
                setattr(context, name, value)
            log.setLevel(level)
