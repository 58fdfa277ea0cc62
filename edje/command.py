"""The command `edje`: `edje index`, `search` and `serve`, or a run, which `edje.cli` composes.

The first three need no Hydra.
"""

import logging
import os
import sys
from difflib import get_close_matches

from edje import __version__
from edje.config.terminal import (
    ConsoleHandler,
    draw_bars_rarely,
    stop_talking,
    use_plain_characters,
)
from edje.errors import EdjeError
from edje.garbage import collect_rarely

OF_AN_INDEX = ("index", "search", "serve")
OF_A_RUN = ("-", "~", "+")  # how arguments without = begin
WAITING = "edje.tokens.lock"  # it logs when it waits for another process


def main() -> int:
    """Run the command line; returns the exit status."""
    first = next(iter(sys.argv[1:]), "--")
    if first in OF_AN_INDEX:
        return on_index(sys.argv[1:])
    if first == "--version":
        sys.stdout.write(f"edje {__version__}\n")
        return 0
    if "=" not in first and not first.startswith(OF_A_RUN):
        close = get_close_matches(first, OF_AN_INDEX, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        sys.stderr.write(
            f"Error: there is no command {first!r}.{meant} The commands are index, search and "
            "serve; a run is given as key=value. edje --help explains both.\n"
        )
        return 1
    from edje import cli  # imports Hydra; by its own name, which Hydra records

    return cli.main()


def on_index(arguments: list[str]) -> int:
    """Add to, search or serve an index; user errors end as one message."""
    use_plain_characters()
    draw_bars_rarely()
    collect_rarely()
    log = logging.getLogger(WAITING)
    log.setLevel(logging.INFO)
    log.addHandler(ConsoleHandler())
    try:
        if arguments[0] == "serve":
            from edje.serving.serve_command import run  # imports torch
        else:
            from edje.index.index_commands import run

        run(arguments)
        sys.stdout.flush()
    except EdjeError as error:
        if os.environ.get("EDJE_DEBUG") == "1":
            raise
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except KeyboardInterrupt:
        kept = "; what is written is kept" if arguments[0] == "index" else ""
        sys.stderr.write(f"Interrupted{kept}.\n")
        return 130
    except BrokenPipeError:  # the reader closed the pipe, like `| head`
        stop_talking()
    return 0
