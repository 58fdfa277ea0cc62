"""Lance, the database of an index: imported when needed, with its errors in plain words."""

import importlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edje.errors import EdjeError

FULL = ("No space left", "File too large", "Disk quota exceeded")
FORBIDDEN = ("Permission denied", "Operation not permitted", "Read-only file system")
PLACE_IN_SOURCE = re.compile(r",? ?\S+/src/\S+\.rs:\d+:\d+")  # in Lance's own source code
NO_FILTER = (
    *("Schema error", "sql parser", "Error parsing", "filter expression", "type_coercion"),
    *("sql filter", "SQL", "does not return a boolean", "during planning", "Operator "),
    *("logical expression", "Cannot access field", "Error tokenizing"),
)  # not "Invalid input", as Lance also says it of damage
PANICS = ("RustPanic", "PanicException")  # no class that can be imported; the latter no Exception
TO_READ, TO_WRITE = "read", "write to"
OF_RAY = ("engine=ray needs Ray and pylance", "Install them: pip install 'edje[ray]'.")


def lancedb() -> Any:
    """The library LanceDB.

    Raises:
        EdjeError: it isn't installed.
    """
    with of_an_extra("an image index needs LanceDB", "Install it: pip install 'edje[index]'."):
        import lancedb as library
    return library


def index_kinds() -> Any:
    """LanceDB's kinds of indices."""
    lancedb()
    return importlib.import_module("lancedb.index")


def pylance() -> Any:
    """The library that writes pieces of a table separately and adds them afterwards.

    Raises:
        EdjeError: it isn't installed.
    """
    with of_an_extra(*OF_RAY):
        import lance as library
    return library


@contextmanager
def of_an_extra(needs: str, install: str) -> Iterator[None]:
    """Import an optional library in the block, without its warnings.

    Raises:
        EdjeError: it isn't installed; says what needs it, and the command that installs it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise EdjeError(f"{needs} ({error}). {install}") from error


@contextmanager
def lance(folder: Path | str, doing: str = TO_READ) -> Iterator[None]:
    """Use the library in the block.

    Raises:
        EdjeError: it failed; says what to do.
    """
    try:
        yield
    except BaseException as error:
        fault = isinstance(error, OSError | RuntimeError | ValueError)
        if not fault and type(error).__name__ not in PANICS:
            raise
        raise EdjeError(explained(error, folder, doing)) from error


def explained(error: BaseException, folder: Path | str, doing: str) -> str:
    """An error of the library, explained for the user of the index."""
    said = PLACE_IN_SOURCE.sub("", str(error).replace("\n)", ")"))  # as image_table.whole ends
    said = said.strip().split("\n")[0].rstrip(".")
    unnamed = said.replace(str(folder).strip("/"), "")  # its name may have such words
    if any(words in unnamed for words in NO_FILTER):
        return f'invalid filter of the index {folder}: {said}. Write it as SQL: "width > 1000".'
    what = f"can't {doing} the index {folder}: {said}."
    if any(words in said for words in FULL):
        return f"{what} Free some space and do it again: what was written before is kept."
    if any(words in said for words in FORBIDDEN):
        return f"{what} Make the folder writable, or choose another."
    if "Not found" in said:
        return (
            f"{what} If another process has optimised it meanwhile, index.refresh() reads its "
            "present version. Otherwise files of it are gone: index the pictures into a new folder."
        )
    return f"{what} If it is damaged, index the pictures into a new folder; they are never changed."
