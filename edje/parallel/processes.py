"""One process per device for one job: started, watched and ended together."""

import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException, get_context, start_processes

from edje.errors import EdjeError
from edje.quiet import quiet_libraries

SHOW_SECONDS = 0.5


def in_processes(
    part: Callable[..., object],
    arguments: tuple[Any, ...],
    count: int,
    show: Callable[[], object],
    *,
    doing: str,
    advice: str,
) -> None:
    """Run `part(index, *arguments)` for every index below `count`, each in its own process.

    The processes share the cores. `show` is called regularly while they work. `doing` and `advice`
    are for the error message if a process is killed.

    Raises:
        EdjeError: a process raised one, or was killed.
    """
    problems: Any = get_context("spawn").SimpleQueue()
    processes = start_processes(
        _told, (part, arguments, count, problems), count, join=False, start_method="spawn"
    )
    try:
        while not processes.join(timeout=SHOW_SECONDS):
            show()
        show()
    except ProcessExitedException as error:
        if not problems.empty():
            raise EdjeError(problems.get()) from error
        raise EdjeError(
            f"a process that {doing} was killed ({error}), perhaps because memory ran out. {advice}"
        ) from error
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _told(
    index: int, part: Callable[..., object], arguments: tuple[Any, ...], count: int, problems: Any
) -> None:
    """The body of each process."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # from Slurm; the first process handles it
    quiet_libraries()
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        part(index, *arguments)
    except EdjeError as error:
        problems.put(str(error))
        sys.exit(1)
    except KeyboardInterrupt:  # from Ctrl-C, or because the first process was killed
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(128 + signal.SIGINT)
