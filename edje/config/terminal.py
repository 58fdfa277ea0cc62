"""How messages look on the console, for any encoding and any reader."""

import codecs
import logging
import os
import sys
import unicodedata
from contextlib import suppress

PLAIN = "edje.plain"  # the name of a codec error handler
BAR_INTERVAL = "30"  # seconds between two states of a progress bar in a file
# One character for one where possible, so that tables stay aligned.
LOOKALIKES = {"→": ">", "·": "-", "×": "x", "−": "-", "–": "-", "…": "...", "≥": ">=", "≤": "<="}


class ConsoleFormatter(logging.Formatter):
    """The message alone, preceded by its level if that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, or as many lines as its message has."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class ConsoleHandler(logging.StreamHandler):
    """Writes records to a stream; a closed pipe (`| head`) is no error."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Report a failure to write, unless the pipe was closed."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            stop_talking()
        else:
            super().handleError(record)


def use_plain_characters() -> None:
    """Make the console's streams write plain characters for those they can't encode.

    A UTF-8 stream can encode everything and is unchanged.
    """
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN)


def draw_bars_rarely() -> None:
    """Make progress bars write only now and then into a file or a pipe, for short logs.

    tqdm reads the variable when it is imported, here and in child processes. A value that is
    already set remains.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", BAR_INTERVAL)


def stop_talking() -> None:
    """Discard all further output: the reader of the pipe has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The replacement for characters that an encoding lacks: a lookalike, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_lookalike, error.object[error.start : error.end])), error.end


def _lookalike(character: str) -> str:
    known = LOOKALIKES.get(character)
    if known is not None:
        return known
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or ("" if unicodedata.combining(character) else "?")
