"""How log records look on the console."""

import logging


class ConsoleFormatter(logging.Formatter):
    """The message alone; its level before it where that is a warning or worse."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as a line, or as many as its message has."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"
