"""One spelling per image: brings paths from annotations to a common form."""

import posixpath
import unicodedata
from typing import Any


def one_spelling(path: str) -> str:
    """A path or id in a form that is equal for all ways to write it.

    Its letters are composed (NFC; macOS lists names decomposed), its separators are single
    slashes, and `.` and `..` are resolved. A URL keeps its slashes.
    """
    path = unicodedata.normalize("NFC", path)
    if "://" in path or not path:
        return path
    path = posixpath.normpath(path.replace("\\", "/"))
    return "/" + path.lstrip("/") if path.startswith("/") else path


def as_text(value: Any) -> str:
    """A name from annotations, which may be a number such as 0; empty if there is none."""
    return "" if value is None else str(value)
