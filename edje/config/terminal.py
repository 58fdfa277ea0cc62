"""How what is said looks on the console, whatever the console can show and whoever reads it."""

import codecs
import logging
import os
import sys
import unicodedata
from contextlib import suppress

PLAIN = "edje.plain"  # the name of an error handler of codecs
# One character for one where it can be, so that tables stay in line.
LOOKALIKES = {"→": ">", "·": "-", "×": "x", "−": "-", "–": "-", "…": "...", "≥": ">=", "≤": "<="}


class ConsoleFormatter(logging.Formatter):
    """The message alone; its level before it where that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line, or as many as its message has."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class ConsoleHandler(logging.StreamHandler):
    """Writes records to a stream; that its reader has gone (`| head`) ends nothing."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell of a failure to write, unless it is a pipe that was closed."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            stop_talking()
        else:
            super().handleError(record)


def use_plain_characters() -> None:
    """Let the console's streams write what they can't encode in plain characters.

    A stream in UTF-8 can encode everything and is as before.
    """
    codecs.register_error(PLAIN, _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=PLAIN)


def stop_talking() -> None:
    """Send all further output nowhere: the reader of a pipe has gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):  # a stream without a file
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: a lookalike, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_lookalike, error.object[error.start : error.end])), error.end


def _lookalike(character: str) -> str:
    known = LOOKALIKES.get(character)
    if known is not None:
        return known
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or ("" if unicodedata.combining(character) else "?")
