"""Annotation files as text: UTF-8, with or without Windows' byte order mark."""

import codecs
import re
from pathlib import Path
from typing import TextIO

from edje.errors import EdjeError

_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
LINE_END = re.compile(rb"\r\n|\r|\n")


def open_text(path: Path, dataset: str) -> TextIO:
    """The file, opened after its byte order mark; its line ends stay unchanged.

    Raises:
        EdjeError: it is in UTF-16 or UTF-32.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_WIDE) or b"\0" in start[:2]:  # without a mark: every other byte is zero
        raise EdjeError(
            f"{dataset}: {path} is in UTF-16 or UTF-32. Save it as UTF-8 (in a spreadsheet: "
            "CSV UTF-8)."
        )
    return path.open(encoding="utf-8-sig", newline="")


def not_utf8(path: Path, dataset: str) -> EdjeError:
    """The error for a file in another encoding; names the first line that shows it."""
    content = path.read_bytes()
    where = ""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = 1 + len(LINE_END.findall(content[: error.start]))
        where = f" in line {line} (byte {content[error.start]:#04x})"
    return EdjeError(f"{dataset}: {path} is not UTF-8{where}. Expected UTF-8: save it again so.")
