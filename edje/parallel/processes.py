"""A process for each device, of one piece of work: started, watched and ended together."""

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
    """Run `part(index, *arguments)` for every index below `count`, each in a process of its own.

    The cores are shared out among them. `show` is called every now and then while they work.
    `doing` and `advice` are for the message of a process that was ended from outside.

    Raises:
        EdjeError: a process raised one, or was ended from outside.
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
            f"a process that {doing} was ended from outside ({error}), perhaps for lack of memory. "
            f"{advice}"
        ) from error
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _told(
    index: int, part: Callable[..., object], arguments: tuple[Any, ...], count: int, problems: Any
) -> None:
    """What each of the processes does."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # of Slurm, whom the first process answers
    quiet_libraries()
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        part(index, *arguments)
    except EdjeError as error:
        problems.put(str(error))
        sys.exit(1)
    except KeyboardInterrupt:  # pressed for all processes, or sent as the first one was killed
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(128 + signal.SIGINT)
